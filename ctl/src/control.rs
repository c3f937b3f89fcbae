//! Changes a running balancer.
