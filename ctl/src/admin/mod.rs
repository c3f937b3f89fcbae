//! The admin socket.
