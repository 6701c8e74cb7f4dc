"""Published checkpoints: which there are, how one is downloaded, where it is kept. Only here is the network used."""
