"""Source and target, input and output: which side of a line is read depends on the direction."""

from __future__ import annotations

from typing import Literal, NamedTuple

from loftr2flax.mapping.rules import Direction, Rule, Spec

SideName = Literal["source", "target"]


class Sides(NamedTuple):
    """Which side of a line is read and which is written; the one place where a direction is turned into sides."""

    input_name: SideName
    output_name: SideName
    separator: str

    @classmethod
    def of(cls, direction: Direction) -> Sides:
        """The sides of a direction; ``separator`` is the input's."""
        return cls("source", "target", ".") if direction == "forward" else cls("target", "source", "/")

    @property
    def leaf(self) -> str:
        """What people call one array of the input."""
        return "tensor" if self.separator == "." else "leaf"

    def input(self, rule: Rule) -> Spec | None:
        """What the rule reads."""
        return rule.source if self.input_name == "source" else rule.target

    def output(self, rule: Rule) -> Spec | None:
        """What the rule writes."""
        return rule.target if self.input_name == "source" else rule.source
