"""The policy that the platform goes by: the one asked for, guarded, or the one that is always there.

A policy is the only kind of plugin that runs inside the platform, so one of somebody else is first tried
out in a process of its own. No policy can keep the platform from starting, or stop it from deciding.
"""

from __future__ import annotations

import logging
from typing import Final, cast

from ekiben.contract.policy import Idle, Policy, Resident
from ekiben.plugins.discovery import Plugins, load_object
from ekiben.plugins.doctor import examine
from ekiben.plugins.environments import OWN_DISTRIBUTION

logger = logging.getLogger(__name__)

DEFAULT: Final = "adaptive"
SPARE: Final = "classic"
"""For when the default itself is in trouble."""
TRIAL_S: Final = 20.0
"""How long a policy of somebody else may take to import."""


def choose_policy(plugins: Plugins, wanted: str = DEFAULT) -> Policy:
    """The policy `wanted`, or the default one, with a word of warning. Blocks while it is tried out."""
    spare_id = SPARE if wanted == DEFAULT else DEFAULT
    spare = cast(Policy, load_object(plugins.policies()[spare_id]))
    try:
        chosen = _load(plugins, wanted)
    except Exception as error:  # noqa: BLE001 - whatever a plugin raises must not stop the platform
        logger.warning("policy %r cannot be used, going by %r: %s", wanted, spare_id, _said(error))
        return spare
    return GuardedPolicy(chosen, wanted, spare=spare, spare_id=spare_id)


def _load(plugins: Plugins, wanted: str) -> Policy:
    known = plugins.policies()
    if wanted not in known:
        reasons = [broken.reason for broken in plugins.broken if broken.id == wanted]
        raise LookupError(reasons[0] if reasons else f"there is none (known: {', '.join(sorted(known))})")
    plugin = known[wanted]
    if plugin.distribution != OWN_DISTRIBUTION:
        for finding in examine(plugins, [wanted], deadline_s=TRIAL_S):
            if finding.distribution == plugin.distribution and not finding.ready:
                raise LookupError(finding.problem)
    return cast(Policy, load_object(plugin))


class GuardedPolicy:
    """Decides by one policy until that fails; from then on by another one."""

    def __init__(self, policy: Policy, policy_id: str, *, spare: Policy, spare_id: str) -> None:
        self._policy = policy
        self._policy_id = policy_id
        self._spare = spare
        self._spare_id = spare_id

    def worth(self, resident: Resident) -> float:
        try:
            answer: object = self._policy.worth(resident)
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises must not stop the loop
            answer = error
        if isinstance(answer, (int, float)) and answer == answer:  # which NaN is not
            return answer
        return self._turn_to_the_spare(answer, resident.name).worth(resident)

    def keep_alive_s(self, idle: Idle) -> float:
        try:
            answer: object = self._policy.keep_alive_s(idle)
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises must not stop the loop
            answer = error
        if isinstance(answer, (int, float)) and answer >= 0:  # which NaN is not either
            return answer
        return self._turn_to_the_spare(answer, idle.name).keep_alive_s(idle)

    def _turn_to_the_spare(self, answer: object, name: str) -> Policy:
        problem = _said(answer) if isinstance(answer, Exception) else f"it answers {answer!r} about {name!r}"
        logger.warning(
            "policy %r failed, going by %r from now on: %s", self._policy_id, self._spare_id, problem
        )
        self._policy, self._policy_id = self._spare, self._spare_id
        return self._spare


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
