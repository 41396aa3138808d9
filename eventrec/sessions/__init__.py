"""Sessions and profiles, computed from what passes a bus: pure rules, and the stage that applies them."""

from eventrec.records.content import PlainShape
from eventrec.sessions.emitted import SESSION_END, SESSION_START
from eventrec.sessions.fields import CARRIED, EventFields, SessionEvent
from eventrec.sessions.life_cycle import Sessions
from eventrec.sessions.picker import Sources
from eventrec.sessions.policy import SessionPolicy, SessionStage
from eventrec.sessions.profile import Profile
from eventrec.sessions.profile_fields import OBSERVED, ProfileFields
from eventrec.sessions.profiles import PROFILE, UPDATES, Profiles
from eventrec.sessions.reference import HeldView, InheritedView, ReferenceSessions
from eventrec.sessions.session import Session
from eventrec.sessions.turn import StateForm, Turn

__all__ = [
    "CARRIED",
    "OBSERVED",
    "PROFILE",
    "SESSION_END",
    "SESSION_START",
    "UPDATES",
    "EventFields",
    "HeldView",
    "InheritedView",
    "PlainShape",
    "Profile",
    "ProfileFields",
    "Profiles",
    "ReferenceSessions",
    "Session",
    "SessionEvent",
    "SessionPolicy",
    "SessionStage",
    "Sessions",
    "Sources",
    "StateForm",
    "Turn",
]
