"""Counted tokens are those that the model was run on."""

import torch

from alphasteer.models import counted_tokens


def test_forwards_and_generation_are_counted_and_nothing_after(llama):
    ids = torch.randint(0, 200, (3, 7))
    with counted_tokens(llama) as tokens:
        llama(input_ids=ids)
        assert tokens.count == 21
        llama.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert tokens.count == 21 + 21 + 3 * 3, "the last token is not run again"
    llama(input_ids=ids)
    assert tokens.count == 51
