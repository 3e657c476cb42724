"""A chat request as a run of one leg, for a runner that takes runs only. No mode that a client may ask for: its leg is
routed, and its answer told, as that of any chat. Pure."""

from __future__ import annotations

from typing import Final

from orchestration.steps import Calls, Directive, Done, Failed, Leg, Mode, Results, Step

LEG: Final = "chat"


class Chat:
    name = "chat"
    default = least = most = 0
    takes_tools = True

    def step(self, run: Directive, results: Results) -> Step:
        answer = results.get(LEG)
        if answer is None:
            return Calls([Leg(LEG, "assistant", model=run.primary, has_form=run.has_form)])
        return Failed(answer.error) if answer.error is not None else Done(answer.body, LEG)


CHAT: Final[Mode] = Chat()
