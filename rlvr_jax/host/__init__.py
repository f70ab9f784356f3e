"""The host side: text, files, processes and clocks, in wings whose imports form no circle."""

# Rule files of users import the answer extraction from here; this is its public name.
from rlvr_jax.host.text import answers as answers
