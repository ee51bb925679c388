"""A package, so that processes that tests start find these modules and not another package of this name."""
