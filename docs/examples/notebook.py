"""Read the results of a sweep into a data frame, and ask which variants fit a GPU.

The cells (# %%) can be run one by one in Jupyter, VS Code or Spyder. As a script: python docs/examples/notebook.py
[WORKSPACE]
"""

# %% The runs of a workspace
import sys

import sweep

workspace = sweep.open_workspace(sys.argv[1] if len(sys.argv) > 1 else None)
print(workspace.runs(frame="pandas")[["run", "model", "jobs", "done"]])

# %% The records of its latest run: a row for each variant
records = workspace.records(frame="pandas")
columns = ["variant", "bits_per_weight", "file_bytes", "perplexity.value", "divergence.kld_mean"]
print(records[columns].to_string(index=False))

# %% What each bit less costs
by_size = records.sort_values("bits_per_weight", ascending=False)
print(by_size.assign(lost=by_size["divergence.kld_mean"].diff())[["variant", "bits_per_weight", "lost"]])

# %% Which variants fit a GPU that this machine does not have
fits = sweep.what_fits("Qwen3-8B", gpu="8GiB", variants=["Q4_K_M", "Q6_K", "Q8_0"], ctx=16_384, frame="pandas")
print(fits[["variant", "verdict", "file_bytes", "total_bytes"]].to_string(index=False))
