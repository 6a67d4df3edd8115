# SPDX-License-Identifier: GPL-2.0-or-later
"""What a monitor and its guardian say to each other, one message each of a SOCK_SEQPACKET socket."""

from typing import Final

ARM: Final = b"arm"
"""There is a guest to guard, from now on; bears the claim on it."""
ARMED: Final = b"armed"
"""The answer; anything else says what is wrong."""
DISARM: Final = b"disarm"
"""The guest is as it was."""
TAKE_OVER: Final = b"take over"
"""The monitor could not leave the guest as it was: do it now."""
MAX_MESSAGE: Final = 4096
