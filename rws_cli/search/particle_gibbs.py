"""FK steering in sweeps, each with the last completion among its particles (PG-DLM, 2507.08390)"""

from rws_cli.part import part, setting
from rws_cli.search.fk import Fk


@part
class ParticleGibbs(Fk):
    sweeps: int = setting(
        "sweeps over the whole completion; from the second on, the first particle is the last completion", 2, min=1
    )
