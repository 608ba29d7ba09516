"""A steering inside vLLM 0.32: ``--load-format alphasteer`` loads the model as ever and steers its decoder layers.

``plugin.register`` is the entry point that vLLM calls in each of its processes; ``serving`` starts
vLLM's own server. Nothing is imported here: ``pip install 'alphasteer[vllm]'``.
"""
