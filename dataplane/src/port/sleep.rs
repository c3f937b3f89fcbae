//! Sleeping in poll.

use std::{io, time::Duration};

use nix::{
    errno::Errno,
    poll::{PollFd, PollTimeout, poll},
};

/// Polls for at most `timeout`, rounded up to milliseconds: rounding down would make a sleep of less
/// than one no sleep at all. A signal counts as the end of the time.
pub(crate) fn poll_for(fds: &mut [PollFd<'_>], timeout: Duration) -> io::Result<()> {
    let milliseconds = timeout.as_nanos().div_ceil(1_000_000);
    let timeout = i32::try_from(milliseconds).map_or(PollTimeout::MAX, |milliseconds| {
        PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
    });
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
