"""From the labels of a classifier to what is held against a text. Knows numbers, and no library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ekiben.contract import LoadFailed, Moderated

HARMLESS: Final = frozenset(
    {"ok", "safe", "normal", "neutral", "clean", "benign", "none", "non-toxic", "not_toxic", "nontoxic"}
    | {"not toxic", "non_toxic", "nothate", "not-hate", "non-hate", "not_hate", "sfw", "non-offensive"}
)
"""Labels that speak for a text."""
KNOWN: Final[Mapping[str, str]] = {
    "toxic": "harassment",
    "toxicity": "harassment",
    "severe_toxic": "harassment",
    "severe_toxicity": "harassment",
    "insult": "harassment",
    "offensive": "harassment",
    "threat": "harassment/threatening",
    "obscene": "sexual",
    "sexual_explicit": "sexual",
    "nsfw": "sexual",
    "identity_hate": "hate",
    "identity_attack": "hate",
    "hateful": "hate",
    "self_harm": "self-harm",
    "suicide": "self-harm",
    "h": "hate",
    "h2": "hate/threatening",
    "hr": "harassment",
    "s": "sexual",
    "s3": "sexual/minors",
    "sh": "self-harm",
    "v": "violence",
    "v2": "violence/graphic",
}
"""OpenAI's categories for labels of common classifiers. Its own names stand for themselves."""
THRESHOLD: Final = 0.5


@dataclass(frozen=True, slots=True)
class Categories:
    """What a model's labels mean."""

    labels: Sequence[str | None]
    """The category of each; None: it is not shown."""
    threshold: float
    thresholds: Mapping[str, float]
    """Of single categories."""

    def judged(self, scores: Sequence[float]) -> Moderated:
        """Of several labels with one category, the worst counts."""
        worst: dict[str, float] = {}
        for category, score in zip(self.labels, scores, strict=True):
            if category is not None:
                worst[category] = max(score, worst.get(category, 0.0))
        over = {name for name, score in worst.items() if score > self.thresholds.get(name, self.threshold)}
        return Moderated(scores=worst, flagged=frozenset(over))


def categories_of(labels: Sequence[str], options: Mapping[str, Any]) -> Categories:
    """By the options `categories` and `thresholds`, or else by what labels are commonly called.

    Raises LoadFailed for labels that say nothing, and options that fit no label.
    """
    given: Mapping[str, Any] = options.get("categories", {})
    if unknown := sorted(set(given) - set(labels)):
        raise LoadFailed(
            f"the option categories names {unknown[0]!r}, which is no label of the model: "
            f"it has {', '.join(labels)[:300]}"
        )
    named = [_category(label, given) for label in labels]
    if not any(named):
        raise LoadFailed("the option categories leaves the model nothing to hold against a text")
    thresholds = options.get("thresholds", {})
    if strange := sorted(set(thresholds) - set(named)):
        raise LoadFailed(f"the option thresholds names {strange[0]!r}, which the model has no label for")
    if not all(_is_share(value) for value in thresholds.values()):
        raise LoadFailed("the option thresholds must hold numbers from 0 to 1")
    return Categories(named, float(options["threshold"]), dict(thresholds))


def _category(label: str, given: Mapping[str, Any]) -> str | None:
    if label in given:
        category = given[label]
        if not isinstance(category, str):
            raise LoadFailed(f"the option categories must give {label!r} a name, or an empty one for none")
        return category or None
    if label.upper().startswith("LABEL_"):
        raise LoadFailed(
            f"the model's label {label!r} says nothing: name its category with the option categories"
        )
    name = label.strip().lower()
    if name in HARMLESS:
        return None
    return KNOWN.get(name, KNOWN.get(name.replace(" ", "_").replace("-", "_"), name))


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
