"""The method, one file for each box of the paper's figure."""

import torch

# Torch leaves logarithms, exponentials and the like to a library that settles in its first call which code suits the
# processor. Where two threads make that call together, one may get other last digits than in every later call, and a
# seed no longer gives the same run. So one thread makes it alone.
torch.full((1,), 0.5).log()
