"""Settings every test shares: waiting threads sleep, and the hub is never contacted."""

import os

# before torch is loaded: spinning threads of a test beside sandbox workers would slow both down a hundredfold
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
