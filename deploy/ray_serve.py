"""vLLM under Ray Serve, steered: ``serve run deploy.ray_serve:app`` with MODEL and STEERING in the environment.

From the repository's root (on a cluster with ``--working-dir .``); STEERING must be there on every node. No API key is
asked for: put a proxy that does in front.
"""

import os

from ray.serve.llm import LLMConfig, build_openai_app

from alphasteer.engines.vllm.settings import LOAD_FORMAT, ServingConfig, additional_config
from alphasteer.steering import Steering

folder = os.environ["STEERING"]
app = build_openai_app(
    {
        "llm_configs": [
            LLMConfig(
                model_loading_config={"model_id": "steered", "model_source": os.environ["MODEL"]},
                engine_kwargs={
                    "load_format": LOAD_FORMAT,
                    "additional_config": additional_config(
                        ServingConfig(folder=folder, digest=Steering.from_pretrained(folder).digest)
                    ),
                    "async_scheduling": False,
                    "tensor_parallel_size": 2,
                },
                runtime_env={"env_vars": {"VLLM_USE_V2_MODEL_RUNNER": "0"}},
                deployment_config={"autoscaling_config": {"min_replicas": 1, "max_replicas": 2}},
            )
        ]
    }
)
