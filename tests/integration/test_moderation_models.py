"""Text classifiers with random weights as moderators: the library's numbers, and what they are held to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ekiben.contract import LoadFailed, ModerateRequest, Moderation, testing
from ekiben.contract.model import Ability, Family, ModelSpec, SourceSpec, Variant
from ekiben.runtime.batching.fronts import Fronts
from ekiben.runtime.embedding.moderations import CATEGORIES, ROUTES
from tests.replica_routes import client, load_folder
from tests.tiny_encoders import classifier_folder

SPEC = ModelSpec(
    name="censor",
    family=Family.EMBEDDING,
    abilities=frozenset({Ability.MODERATE}),
    variants=(
        Variant(format="safetensors", source=SourceSpec(kind="local"), engine="sentence_transformers"),
    ),
)
LABELS = ("toxic", "threat", "identity_hate", "boredom")
TEXTS = ["the train leaves at nine", "soup, soup, soup", "what is it", "boil the rice for ten minutes ."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier_folder(
        tmp_path_factory.mktemp("censor"), labels=LABELS, problem_type="multi_label_classification"
    )


def of_the_library(folder: Path, texts: list[str], *, softmax: bool) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    features = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**features).logits
    return (logits.softmax(-1) if softmax else logits.sigmoid()).tolist()


async def moderated(folder: Path, scratch: Path, texts: list[str], **options: Any) -> Moderation:
    loaded = await load_folder(SPEC, folder, scratch, **options)
    answer: Moderation = await Fronts(loaded).able(Ability.MODERATE).moderate(ModerateRequest(texts=texts))
    await loaded.unload()
    return answer


async def test_it_does_what_such_models_must(folder: Path, tmp_path: Path) -> None:
    loaded = await load_folder(SPEC, folder, tmp_path)
    await testing.check_abilities(loaded, SPEC, tmp_path)
    await loaded.unload()


async def test_labels_become_categories(folder: Path, tmp_path: Path) -> None:
    answer = await moderated(folder, tmp_path, TEXTS)
    names = ("harassment", "harassment/threatening", "hate", "boredom")
    for found, expected in zip(answer.texts, of_the_library(folder, TEXTS, softmax=False), strict=True):
        assert found.scores == pytest.approx(dict(zip(names, expected, strict=True)), abs=1e-4)
        assert found.flagged == {name for name, score in found.scores.items() if score > 0.5}
    assert {bool(text.flagged) for text in answer.texts} == {True}


async def test_one_label_of_several_is_a_share_of_all(tmp_path: Path) -> None:
    folder = classifier_folder(tmp_path / "one", labels=("OK", "S", "S3"))
    answer = await moderated(folder, tmp_path, TEXTS, threshold=0.0, thresholds={"sexual/minors": 1.0})
    for found, expected in zip(answer.texts, of_the_library(folder, TEXTS, softmax=True), strict=True):
        assert found.scores == pytest.approx({"sexual": expected[1], "sexual/minors": expected[2]}, abs=1e-4)
        assert found.flagged == {"sexual"}


async def test_a_spec_says_what_labels_mean(folder: Path, tmp_path: Path) -> None:
    options = {"toxic": "violence", "threat": "violence", "identity_hate": ""}
    answer = await moderated(folder, tmp_path, TEXTS, categories=options)
    for found, expected in zip(answer.texts, of_the_library(folder, TEXTS, softmax=False), strict=True):
        worst = {"violence": max(expected[:2]), "boredom": expected[3]}
        assert found.scores == pytest.approx(worst, abs=1e-4)


async def test_long_texts_are_read_to_their_end(folder: Path, tmp_path: Path) -> None:
    hidden = "soup " * 200 + TEXTS[0]
    bland, whole = (await moderated(folder, tmp_path, ["soup " * 200, hidden])).texts
    assert whole.scores != pytest.approx(bland.scores, abs=1e-3)
    assert all(whole.scores[name] >= bland.scores[name] - 1e-4 for name in bland.scores)


async def test_through_the_route(folder: Path, tmp_path: Path) -> None:
    loaded = await load_folder(SPEC, folder, tmp_path)
    async with client(SPEC, loaded, ROUTES) as http:
        answer = await http.post("/v1/moderations", json={"model": "censor", "input": TEXTS})
    await loaded.unload()
    assert answer.status_code == 200, answer.text
    expected = of_the_library(folder, TEXTS, softmax=False)
    for result, row in zip(answer.json()["results"], expected, strict=True):
        assert tuple(result["category_scores"]) == CATEGORIES
        assert result["category_scores"]["harassment"] == pytest.approx(row[0], abs=1e-4)
        assert result["categories"]["harassment"] is (row[0] > 0.5)


@pytest.mark.parametrize(
    ("labels", "options", "reason"),
    [
        (("LABEL_0", "LABEL_1"), {}, "'LABEL_0' says nothing"),
        (("ok", "safe"), {}, "nothing to hold"),
        (("ok", "toxic"), {"categories": {"rude": "harassment"}}, "'rude', which is no label"),
        (("ok", "toxic"), {"categories": {"toxic": 5}}, "must give 'toxic' a name"),
        (("ok", "toxic"), {"thresholds": {"violence": 0.1}}, "'violence', which the model has no label"),
        (("ok", "toxic"), {"thresholds": {"harassment": 2}}, "numbers from 0 to 1"),
        (("ok", "toxic"), {"max_length": 65}, "64 positions"),
    ],
)
async def test_what_cannot_be_is_refused(
    tmp_path: Path, labels: tuple[str, ...], options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(LoadFailed, match=reason):
        await load_folder(SPEC, classifier_folder(tmp_path / "model", labels=labels), tmp_path, **options)
