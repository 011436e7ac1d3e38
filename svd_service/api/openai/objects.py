"""The objects of OpenAI's API beside videos: models and errors."""

from typing import Literal

from msgspec import Struct, field


class ModelCard(Struct, kw_only=True):
    """A model that is served. Its time of creation is unknown."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "svd-service"


class ModelList(Struct, kw_only=True):
    """The models that are served."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class OpenAIErrorDetail(Struct):
    """What went wrong: a sentence, whose fault, the parameter if there is one, and a stable code."""

    message: str
    kind: str = field(name="type")
    param: str | None
    code: str


class OpenAIError(Struct):
    """The one shape of an error."""

    error: OpenAIErrorDetail
