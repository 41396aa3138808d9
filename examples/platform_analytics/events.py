"""What happens on the platform: every event it tracks, with the names and fields that its services have always used."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias
from uuid import UUID

from pydantic import Field, JsonValue

from eventrec import EventModel

Int16: TypeAlias = Annotated[int, Field(ge=0, lt=2**16)]
Int32: TypeAlias = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Int64: TypeAlias = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class PlatformEvent(EventModel, table="analytics_events"):
    """An event of the platform. Its type is the class name in snake_case."""


# -- authentication


class AuthLoginAttempt(PlatformEvent):
    user_id: UUID | None = None
    email: str
    success: bool
    error: str | None = None


class AuthCodeVerified(PlatformEvent):
    user_id: UUID
    success: bool
    error: str | None = None


class AuthTokenRefresh(PlatformEvent):
    user_id: UUID
    success: bool
    error: str | None = None


class AuthSessionValidated(PlatformEvent):
    user_id: UUID
    valid: bool


# -- tasks


class TaskCreated(PlatformEvent):
    task_id: UUID
    user_id: UUID
    project_id: UUID | None = None
    cocoon_id: UUID | None = None
    command: str


class TaskStarted(PlatformEvent):
    task_id: UUID
    user_id: UUID
    cocoon_id: UUID | None = None


class TaskCompleted(PlatformEvent):
    task_id: UUID
    user_id: UUID
    duration_ms: Int64
    exit_code: Int32


class TaskFailed(PlatformEvent):
    task_id: UUID
    user_id: UUID
    duration_ms: Int64 | None = None
    exit_code: Int32 | None = None
    error: str


class TaskCancelled(PlatformEvent):
    task_id: UUID
    user_id: UUID
    duration_ms: Int64 | None = None


# -- integrations


class IntegrationConnected(PlatformEvent):
    integration_id: UUID
    user_id: UUID
    provider: str
    project_id: UUID | None = None


class IntegrationDisconnected(PlatformEvent):
    integration_id: UUID
    user_id: UUID
    provider: str
    reason: str | None = None


class IntegrationUsed(PlatformEvent):
    integration_id: UUID
    user_id: UUID
    provider: str
    action: str


class IntegrationError(PlatformEvent):
    integration_id: UUID
    user_id: UUID
    provider: str
    error: str


# The names of these two have two spellings in what is stored: see `catalogue.py`.
class OAuthFlowStarted(PlatformEvent, type="oauth_flow_started"):
    user_id: UUID
    provider: str
    state: str


class OAuthFlowCompleted(PlatformEvent, type="oauth_flow_completed"):
    user_id: UUID
    provider: str
    success: bool
    error: str | None = None


# -- webhooks: their `event_type` is the sender's word, and stays in `data`; the column of that name has our type


class WebhookReceived(PlatformEvent):
    integration_id: UUID | None = None
    provider: str
    event_type: str
    delivery_id: str


class WebhookProcessed(PlatformEvent):
    integration_id: UUID | None = None
    provider: str
    event_type: str
    delivery_id: str
    success: bool
    duration_ms: Int64
    error: str | None = None


# -- cocoons: the devices on which tasks run


class CocoonRegistered(PlatformEvent):
    cocoon_id: UUID
    user_id: UUID
    device_name: str | None = None


class CocoonConnected(PlatformEvent):
    cocoon_id: UUID
    user_id: UUID | None = None


class CocoonDisconnected(PlatformEvent):
    cocoon_id: UUID
    user_id: UUID | None = None
    duration_seconds: Int64


class CocoonClaimed(PlatformEvent):
    cocoon_id: UUID
    user_id: UUID
    via_setup_token: bool


class CocoonSetupTokenCreated(PlatformEvent):
    token_id: UUID
    user_id: UUID
    cocoon_name: str | None = None


class CocoonSetupTokenUsed(PlatformEvent):
    token_id: UUID
    cocoon_id: UUID
    user_id: UUID


# -- projects


class ProjectCreated(PlatformEvent):
    project_id: UUID
    user_id: UUID
    name: str


class ProjectUpdated(PlatformEvent):
    project_id: UUID
    user_id: UUID


class ProjectDeleted(PlatformEvent):
    project_id: UUID
    user_id: UUID


# -- the system: these say their service, all others are stored as "unknown"


class ApiRequest(PlatformEvent):
    service: str
    endpoint: str
    method: str
    status_code: Int16
    duration_ms: Int64
    user_id: UUID | None = None


class DatabaseQuery(PlatformEvent):
    service: str
    query_type: str
    duration_ms: Int64
    rows_affected: Int64 | None = None


class ApplicationError(PlatformEvent):
    service: str
    error_type: str
    error_message: str
    user_id: UUID | None = None
    context: JsonValue = None


# -- newer ones: requests to models through the proxy, and what they cost


class ProxyRequest(PlatformEvent):
    proxy_token_id: UUID
    user_id: UUID
    request_id: str
    upstream_request_id: str | None = None
    requested_model: str | None = None
    actual_model: str | None = None
    provider_type: str
    key_mode: str
    endpoint: str
    input_tokens: Int32 | None = None
    output_tokens: Int32 | None = None
    total_tokens: Int32 | None = None
    reported_cost_usd: float | None = None
    latency_ms: Int32
    ttft_ms: Int32 | None = None
    is_streaming: bool
    status: str
    status_code: Int32 | None = None
    error_type: str | None = None
    error_message: str | None = None


class BalanceCreated(PlatformEvent):
    user_id: UUID
    balance_id: UUID


class BalanceDeposit(PlatformEvent):
    user_id: UUID
    transaction_id: UUID
    amount: Int64
    reference_type: str | None = None


class BalanceDebit(PlatformEvent):
    user_id: UUID
    transaction_id: UUID
    amount: Int64
    reference_type: str | None = None


class BalanceInsufficient(PlatformEvent):
    user_id: UUID
    requested_amount: Int64
    current_balance: Int64
    reference_type: str | None = None


AUTH: Final = (AuthLoginAttempt, AuthCodeVerified, AuthTokenRefresh)
TASKS: Final = (TaskCreated, TaskStarted, TaskCompleted, TaskFailed, TaskCancelled)
INTEGRATIONS: Final = (IntegrationConnected, IntegrationDisconnected, IntegrationUsed, IntegrationError)
COCOONS: Final = (CocoonRegistered, CocoonConnected, CocoonDisconnected, CocoonClaimed)

EVENTS: Final[tuple[type[PlatformEvent], ...]] = (
    *AUTH,
    AuthSessionValidated,
    *TASKS,
    *INTEGRATIONS,
    OAuthFlowStarted,
    OAuthFlowCompleted,
    WebhookReceived,
    WebhookProcessed,
    *COCOONS,
    CocoonSetupTokenCreated,
    CocoonSetupTokenUsed,
    ProjectCreated,
    ProjectUpdated,
    ProjectDeleted,
    ApiRequest,
    DatabaseQuery,
    ApplicationError,
    ProxyRequest,
    BalanceCreated,
    BalanceDeposit,
    BalanceDebit,
    BalanceInsufficient,
)
