"""Classifiers and detectors of the engine `transformers`: the same as the library says, batched or alone."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from PIL.Image import Image as Picture

from ekiben.contract import (
    Ability,
    Batching,
    ClassifyRequest,
    DetectRequest,
    GivenUp,
    InvalidRequest,
    LoadFailed,
    ModelSpec,
    UnsupportedParameter,
    testing,
)
from ekiben.runtime.vision.recognition import ROUTES
from ekiben_transformers.vision import folder as folders
from tests.digits.words import tokenizer
from tests.replica_routes import client, load_folder
from tests.tiny_recognisers import SIDE, vit_folder, yolos_folder


def picture(seed: int, size: tuple[int, int] = (48, 40)) -> Picture:
    noise = torch.randint(0, 255, (5, 6, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(noise.numpy()).resize(size, Image.Resampling.BICUBIC)


def png(image: Picture) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def spec(ability: Ability) -> ModelSpec:
    variant = {"format": "safetensors", "engine": "transformers", "source": {"kind": "local", "path": "/x"}}
    return ModelSpec.model_validate(
        {"name": "sees", "family": "vision", "abilities": [ability], "variants": [variant]}
    )


class Wanted:
    """A run that everybody waits for, until it has been asked often enough."""

    def __init__(self, looks: int = 10**9) -> None:
        self.looks = looks

    @property
    def wanted(self) -> bool:
        self.looks -= 1
        return self.looks >= 0

    def waits_for(self, index: int) -> bool:
        return True

    def tell(self, index: int, news: object) -> None:
        pass


def together(batching: Batching[Any, Any, Any, Any], requests: Sequence[Any]) -> list[Any]:
    """As the runtime's batcher does, with all of them in one batch."""
    items = [list(filter(None, batching.items(request))) for request in requests]
    values = [item.value for of_one in items for item in of_one]
    assert len({item.group for of_one in items for item in of_one}) == 1
    assert len(values) <= batching.max_items
    results = iter(batching.compute(batching.prepare(values), Wanted()))
    return [
        batching.answer(request, [next(results) for _ in of_one])
        for request, of_one in zip(requests, items, strict=True)
    ]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vit_folder(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return yolos_folder(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def chooser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chooser")
    words = tokenizer()
    words.model_max_length = 77
    words.save_pretrained(folder)
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = sizes | {
        "vocab_size": len(words),
        "max_position_embeddings": 77,
        "eos_token_id": words.eos_token_id,
        "bos_token_id": words.bos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    config = transformers.CLIPConfig(
        text_config=text, vision_config=sizes | {"image_size": SIDE, "patch_size": 8}, projection_dim=16
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(folder)
    return folder


def of_library(task: str, folder: Path) -> Any:
    library: Any = transformers
    processor = library.AutoImageProcessor.from_pretrained(folder, backend="pil")
    return library.pipeline(task, model=str(folder), image_processor=processor)


async def test_they_do_what_such_models_must(
    classifier: Path, detector: Path, chooser: Path, tmp_path: Path
) -> None:
    for ability, folder in (
        (Ability.CLASSIFY, classifier),
        (Ability.CLASSIFY, chooser),
        (Ability.DETECT, detector),
    ):
        loaded = await load_folder(spec(ability), folder, tmp_path)
        await testing.check_abilities(loaded, spec(ability), tmp_path)
        await loaded.unload()


async def test_classes_are_those_of_the_library(classifier: Path, tmp_path: Path) -> None:
    loaded = await load_folder(spec(Ability.CLASSIFY), classifier, tmp_path)
    pictures = [picture(seed, (40 + seed, 50)) for seed in range(5)]
    answers = together(
        loaded.batching[Ability.CLASSIFY], [ClassifyRequest(image=png(one)) for one in pictures]
    )
    expected = of_library("image-classification", classifier)(pictures, top_k=4)
    for labels, known in zip(answers, expected, strict=True):
        assert [label.label for label in labels] == [one["label"] for one in known]
        assert [label.score for label in labels] == pytest.approx([one["score"] for one in known], abs=1e-5)
    assert len({labels[0].score for labels in answers}) == len(pictures), "each has its own"
    with pytest.raises(UnsupportedParameter):
        loaded.batching[Ability.CLASSIFY].items(ClassifyRequest(image=png(pictures[0]), labels=["x"]))
    await loaded.unload()


async def test_objects_are_those_of_the_library(detector: Path, tmp_path: Path) -> None:
    loaded = await load_folder(spec(Ability.DETECT), detector, tmp_path)
    batching = loaded.batching[Ability.DETECT]
    pictures = [picture(seed, (80, 60 + 20 * (seed == 9))) for seed in (4, 5, 9)]
    requests = [DetectRequest(image=png(one), threshold=0.01 * n) for n, one in enumerate(pictures)]
    assert len({batching.items(request)[0].group for request in requests}) == 2, "sizes do not mix"
    answers = [*together(batching, requests[:2]), *together(batching, requests[2:])]
    library = of_library("object-detection", detector)
    for request, answer, image in zip(requests, answers, pictures, strict=True):
        known = library(image, threshold=request.threshold)
        assert (answer.width, answer.height) == image.size
        assert len(answer.objects) == len(known) > 0
        for found, one in zip(answer.objects, sorted(known, key=lambda one: -one["score"]), strict=True):
            assert (found.label, found.score) == (one["label"], pytest.approx(one["score"], abs=1e-5))
            assert [max(0, int(side)) for side in found.box[:2]] == [
                max(0, one["box"][side]) for side in ("xmin", "ymin")
            ]
    assert together(batching, [DetectRequest(image=png(pictures[0]), threshold=1.0)])[0].objects == []
    await loaded.unload()


async def test_words_are_chosen_as_the_library_does(chooser: Path, tmp_path: Path) -> None:
    loaded = await load_folder(spec(Ability.CLASSIFY), chooser, tmp_path)
    batching = loaded.batching[Ability.CLASSIFY]
    words, others = ["a handwritten seven", "nine", "zero"], ["one", "two"]
    pictures = [picture(seed) for seed in range(3)]
    requests = [ClassifyRequest(image=png(one), labels=words) for one in pictures]
    library = of_library("zero-shot-image-classification", chooser)
    for labels, image in zip(together(batching, requests), pictures, strict=True):
        known = library(image, candidate_labels=words)
        assert [label.label for label in labels] == [one["label"] for one in known]
        assert [label.score for label in labels] == pytest.approx([one["score"] for one in known], abs=1e-5)
    other = ClassifyRequest(image=png(pictures[0]), labels=others)
    assert batching.items(other)[0].group != batching.items(requests[0])[0].group
    with pytest.raises(InvalidRequest) as caught:
        batching.items(ClassifyRequest(image=png(pictures[0])))
    assert caught.value.param == "labels"
    await loaded.unload()


async def test_the_routes_are_answered_by_them(classifier: Path, detector: Path, tmp_path: Path) -> None:
    for ability, folder, path in (
        (Ability.CLASSIFY, classifier, "/v1/images/classify"),
        (Ability.DETECT, detector, "/v1/images/detect"),
    ):
        loaded = await load_folder(spec(ability), folder, tmp_path)
        async with client(spec(ability), loaded, ROUTES) as http:
            form = {"model": "sees"} | ({"threshold": "0"} if ability is Ability.DETECT else {"top_k": "2"})
            answer = await http.post(path, data=form, files={"image": png(picture(1))})
        await loaded.unload()
        body = answer.json()
        assert answer.status_code == 200, body
        assert len(body["labels"]) == 2 if ability is Ability.CLASSIFY else len(body["objects"]) == 7


async def test_a_pass_ends_between_two_layers_once_nobody_waits(classifier: Path, tmp_path: Path) -> None:
    loaded = await load_folder(spec(Ability.CLASSIFY), classifier, tmp_path)
    batching = loaded.batching[Ability.CLASSIFY]
    ready = batching.prepare([batching.items(ClassifyRequest(image=png(picture(1))))[0].value])
    run = Wanted(looks=5)
    with pytest.raises(GivenUp):
        batching.compute(ready, run)
    assert run.looks == -1, "it looked no further"
    assert len(batching.compute(ready, Wanted())) == 1
    await loaded.unload()


async def test_broken_pictures_are_the_clients_fault(classifier: Path, tmp_path: Path) -> None:
    loaded = await load_folder(spec(Ability.CLASSIFY), classifier, tmp_path)
    for image in (b"", b"GIF89a", png(picture(1))[:60]):
        with pytest.raises(InvalidRequest) as caught:
            loaded.batching[Ability.CLASSIFY].items(ClassifyRequest(image=image))
        assert caught.value.param == "image"
    await loaded.unload()


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("config.json", {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "neither classifies"),
        ("config.json", {"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
        ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "x.Y"}}, "auto_map"),
        ("preprocessor_config.json", None, "lacks preprocessor_config"),
        ("model.safetensors", None, "no weights"),
    ],
)
async def test_folders_that_cannot_or_must_not_be_loaded(
    classifier: Path, tmp_path: Path, file: str, change: dict[str, Any] | None, reason: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in classifier.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    if change is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | change))
    with pytest.raises(LoadFailed, match=reason):
        await load_folder(spec(Ability.CLASSIFY), folder, tmp_path)


async def test_what_it_will_take_is_told(detector: Path, tmp_path: Path) -> None:
    from ekiben_transformers.engine import Transformers

    options = {"pictures": 16, "dtype": "auto"}
    request = testing.load_request(spec(Ability.DETECT), detector, scratch=tmp_path, options=options)
    estimate = Transformers().estimate_memory(request)
    assert estimate.weights_bytes == pytest.approx((detector / "model.safetensors").stat().st_size, rel=0.2)
    assert estimate.working_bytes >= 48 * 96 * 3 * 4 * 16


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({"use_timm_backbone": True, "backbone": "resnet50"}, r"a backbone of timm \(resnet50\)"),
        (
            {"backbone_config": {"model_type": "timm_backbone", "backbone": "resnet18"}},
            r"a backbone of timm \(resnet18\)",
        ),
        ({"model_type": "timm_wrapper"}, r"a network of timm \(timm_wrapper\)"),
    ],
)
async def test_what_is_of_timm_is_refused_by_name_without_torchvision(
    config: dict[str, Any], part: str, detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "find_spec", lambda name: None if name == "torchvision" else object())
    made = tmp_path / "detector"
    shutil.copytree(detector, made)
    whole = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps(whole | config))
    with pytest.raises(
        LoadFailed, match=f"the model has {part}, which needs torchvision beside transformers"
    ):
        await load_folder(spec(Ability.DETECT), made, tmp_path)
