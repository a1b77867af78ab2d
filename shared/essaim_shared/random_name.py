"""Names for services whose author gave none: `quiet_lovelace`."""

import random

_ADJECTIVES = (
    "agile amber bold brisk calm candid clever crisp deft eager fleet fond frank gentle glad "
    "golden hardy honest humble ivory jolly keen kind lively loyal lucid merry mild modest neat "
    "nimble noble patient plain polite proud quick quiet ready robust rosy serene sharp silver "
    "sincere smart snug sober solid spry steady stout sturdy subtle sunny swift tidy tranquil "
    "trusty upbeat valiant vivid warm wise witty zesty"
)

_SURNAMES = (
    "abel agnesi ampere banneker bernoulli bessel bose brahe cantor carson cauchy celsius cerf "
    "church codd conway curie dalton dirac dijkstra erdos erlang euclid euler faraday fermat "
    "fermi franklin galois gauss germain goedel hamming hertz hilbert hopper huygens jacobi joule "
    "kepler knuth kovalevskaya lagrange lamport laplace leibniz liskov lovelace maxwell meitner "
    "mendel milner minsky moore neumann noether pascal pasteur planck poincare ritchie shannon "
    "tarjan tesla turing volta wiener wiles zuse"
)


def random_name(rng: random.Random) -> str:
    """A name that is a valid service name; whether it is free is the caller's to see."""
    return f"{rng.choice(_ADJECTIVES.split())}_{rng.choice(_SURNAMES.split())}"
