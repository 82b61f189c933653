from __future__ import annotations

from hypothesis import settings

# A busy machine makes an example slow now and then; that is no fault of the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
