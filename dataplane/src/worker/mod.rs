//! The thread that moves frames between a queue and its forwarder.
