"""The paths that a replica knows of other abilities are those that the abilities' modules have."""

from __future__ import annotations

from ekiben.contract.model import TEXT_ABILITIES, Ability
from ekiben.gateway.inference import INFERENCE
from ekiben.runtime.routing import ABILITIES_OF_MODULE, ABILITY_OF_PATH, TOKENIZER_PATHS, routes_of


def test_the_table_of_paths_agrees_with_the_routes() -> None:
    routes = routes_of(frozenset(Ability))
    assert {route.path: route.abilities for route in routes} == {
        path: frozenset({ability}) for path, ability in ABILITY_OF_PATH.items()
    } | dict.fromkeys(TOKENIZER_PATHS, TEXT_ABILITIES)
    assert {route.method for route in routes} == {"POST"}


def test_every_ability_has_a_module() -> None:
    assert frozenset().union(*ABILITIES_OF_MODULE.values()) == frozenset(Ability)


def test_the_gateway_sends_what_replicas_answer_and_nothing_else() -> None:
    sent = {entry.path: entry.ability for entry in INFERENCE}
    assert sent == ABILITY_OF_PATH | dict.fromkeys(TOKENIZER_PATHS)
