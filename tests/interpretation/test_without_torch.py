def test_all_but_what_runs_a_model_is_read_without_torch(python):
    code = """
import importlib.abc, sys
class Forbid(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "sklearn", "httpx"}:
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Forbid())
from reseed.interpretation import (
    controls, cost_table, costs, detection, embedding_scores, explain, fuzzing, instruments,
    intervention, intruder, simulation, surprisal,
)
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
