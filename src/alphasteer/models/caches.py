"""Key-value caches whose one row can stand for many: what prompts share at their beginning runs once."""

from typing import Any


def shareable_cache(model: Any, *, sliding: bool = True) -> Any:
    """An empty cache of the model's kind, or None where its rows cannot be shared out.

    Recurrent and hybrid models keep states that do not split at a token.

    Args:
        sliding: whether layers with a sliding window do, too. Not where padding follows the shared beginning: it
            would stand in the window.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    cache = DynamicCache(config=model.config)
    able = (DynamicLayer, DynamicSlidingWindowLayer) if sliding else (DynamicLayer,)
    return cache if all(type(layer) in able for layer in cache.layers) else None
