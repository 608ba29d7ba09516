"""The comparison of ``test_exactness`` in a process of its own, whose Triton is an interpreter."""

import json
import sys

from engines import replies, save_tiny

if __name__ == "__main__":
    folder, scheduling = sys.argv[1:]
    found = replies(save_tiny(f"{folder}/model"), f"{folder}/steering", async_scheduling=scheduling == "async")
    print("FOUND", json.dumps(found))
