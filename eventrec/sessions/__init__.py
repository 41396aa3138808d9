"""Sessions of events, computed from what passes a bus: pure rules, and the stage that applies them."""

from eventrec.sessions.emitted import SESSION_END, SESSION_START
from eventrec.sessions.fields import CARRIED, EventFields, SessionEvent
from eventrec.sessions.life_cycle import Sessions
from eventrec.sessions.policy import SessionPolicy, SessionStage
from eventrec.sessions.reference import ReferenceSessions
from eventrec.sessions.session import Session
from eventrec.sessions.turn import Turn

__all__ = [
    "CARRIED",
    "SESSION_END",
    "SESSION_START",
    "EventFields",
    "ReferenceSessions",
    "Session",
    "SessionEvent",
    "SessionPolicy",
    "SessionStage",
    "Sessions",
    "Turn",
]
