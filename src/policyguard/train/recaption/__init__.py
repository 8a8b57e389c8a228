"""Recaption: a base model's captions, edited by a more permissive model so that they name what it left out.

SafeGuard-VL, section 2.1: the base model captions each image in its own words, and a second model changes
as little as it can to restore what matters to policies. Stage ``sft`` learns the result. Neither model is
asked for a verdict, and a caption that passes one is not kept.
"""

from policyguard.train.recaption.chat import Chat, ChatError, Message, Reply, ScriptedChat, ServerDownError
from policyguard.train.recaption.job import Report, Task, recaption
from policyguard.train.recaption.page import sample_page
from policyguard.train.recaption.prompts import PROMPT_VERSION, REQUEST

__all__ = [
    "PROMPT_VERSION",
    "REQUEST",
    "Chat",
    "ChatError",
    "Message",
    "Reply",
    "Report",
    "ScriptedChat",
    "ServerDownError",
    "Task",
    "recaption",
    "sample_page",
]
