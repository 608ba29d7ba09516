"""What an operator decides."""

from pydantic import Field

from alphasteer.engines.protocol import Limits


class ServerSettings(Limits):
    """Limits and permissions of a server; each is an option of ``alphasteer serve``."""

    name: str = Field(description="The model's name in requests.")
    api_key: str | None = Field(None, min_length=8, description="Asked for as a bearer token; none if not given.")
    allow_strength: bool = Field(False, description="Requests may set their own strength.")
    highest_strength: float = Field(1.5, gt=0, description="Strengths of requests are clamped to 0 .. this.")
    most_rows: int = Field(16, ge=1, description="Requests in one batch at most.")
    most_waiting: int = Field(256, ge=1, description="Requests that may wait; more are turned away with 503.")
    most_tokens: int = Field(1024, ge=1, description="Length of a reply at most, and if a request does not say.")
