"""How many rows of which category, edit type and number of references: EVLM's Table 6 and Figure 10, filled
exactly."""

from __future__ import annotations

from collections.abc import Mapping

CATEGORIES = {
    "image": 10_000,
    "image+text": 5_000,
    "video": 4_000,
    "image->video": 3_000,
    "video+text": 3_000,
    "text": 5_000,
}
"""Table 6: references -> original, in rows of 30,000."""

EDIT_TYPES = {"transformation": 565, "removal": 109, "addition": 107, "weather": 101, "rest": 118}
"""Figure 10, in thousandths."""

REST = ("style", "texture", "layout")
"""What the rest is made of, in equal parts."""

TYPES = (*(name for name in EDIT_TYPES if name != "rest"), *REST)

REFERENCES = {1: 75, 2: 20, 3: 5}
"""How many references of its kind a question has, in hundredths; ours, the paper gives examples alone."""


def shared_out(total: int, weights: Mapping[str, int]) -> dict[str, int]:
    """`total` in whole parts that are as the weights, by the largest remainder; of equal ones the first."""
    whole = sum(weights.values())
    parts = {name: total * weight // whole for name, weight in weights.items()}
    left = total - sum(parts.values())
    by_remainder = sorted(weights, key=lambda name: -(total * weights[name] % whole))
    for name in by_remainder[:left]:
        parts[name] += 1
    return parts


def categories(rows: int) -> dict[str, int]:
    """Rows of each category."""
    return shared_out(rows, CATEGORIES)


def edit_types(rows: int) -> dict[str, int]:
    """Rows of each edit type, in the order of TYPES; those of REST sum up to the rest's share."""
    parts = shared_out(rows, EDIT_TYPES)
    rest = shared_out(parts.pop("rest"), dict.fromkeys(REST, 1))
    return {**parts, **rest}


def reference_counts(rows: int) -> dict[int, int]:
    """Rows with one, two and three references of a kind."""
    parts = shared_out(rows, {str(count): weight for count, weight in REFERENCES.items()})
    return {int(count): number for count, number in parts.items()}
