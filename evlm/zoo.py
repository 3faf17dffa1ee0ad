"""The old door to `evlm.models.zoo`, for programs written against 0.1."""

import sys

from .models import zoo

sys.modules[__name__] = zoo  # one module under two names: what is set in one is set in both
