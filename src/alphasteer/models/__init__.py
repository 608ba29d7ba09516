"""The patient: loading a chat model, finding the layers where its residual stream runs, knowing it again.

``load_model(source)`` gives model and tokenizer; ``find_decoder(model)`` the layers; ``fingerprint`` its identity.
"""

from alphasteer.models.caches import shareable_cache
from alphasteer.models.counting import Tokens, counted_tokens
from alphasteer.models.decoder import Decoder, check_decoder, find_decoder, layer_lists, residual_of, with_residual
from alphasteer.models.fingerprint import Fingerprint, fingerprint, loaded_digest, model_fields
from alphasteer.models.loading import context_length, load_model

__all__ = [
    "Decoder",
    "Fingerprint",
    "Tokens",
    "check_decoder",
    "context_length",
    "counted_tokens",
    "find_decoder",
    "fingerprint",
    "layer_lists",
    "load_model",
    "loaded_digest",
    "model_fields",
    "residual_of",
    "shareable_cache",
    "with_residual",
]
