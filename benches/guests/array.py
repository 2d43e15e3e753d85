"""100 MB of numpy's random numbers, and one thread that ticks."""
import numpy

from tick import tick

numbers = numpy.random.default_rng(1).random(12_500_000)
tick()
