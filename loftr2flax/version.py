"""The version of the package, in one place for the code and for the build."""

VERSION = "0.1.0"
