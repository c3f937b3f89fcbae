//! Server ids that clients carry: in QUIC connection ids, in the first bytes of a UDP payload, in a
//! TCP option (katran-compat section 7).

/// What a QUIC packet says about its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuicServer {
    /// A connection id with a server id in it.
    Id {
        /// Version of the connection id, 1 to 3.
        version: u8,
        /// The server id, above zero.
        id: u32,
    },
    /// Initial or 0-RTT: the connection id is the client's own.
    Initial,
    /// No connection id of ours.
    None,
}

/// Shortest connection id that can hold a server id.
const MIN_CONNECTION_ID: usize = 8;

/// Reads the destination connection id of a QUIC packet (RFC 9000 section 17), which is `payload`,
/// the bytes after the UDP header. The version field is not looked at.
#[inline]
pub fn quic(payload: &[u8]) -> QuicServer {
    const LONG_HEADER: u8 = 0x80;
    const PACKET_TYPE: u8 = 0x30;
    const INITIAL: u8 = 0x00;
    const ZERO_RTT: u8 = 0x10;
    let Some(&first) = payload.first() else {
        return QuicServer::None;
    };
    let connection_id = if first & LONG_HEADER == 0 {
        payload.get(1..)
    } else if payload.len() < 6 + MIN_CONNECTION_ID {
        None
    } else if matches!(first & PACKET_TYPE, INITIAL | ZERO_RTT) {
        return QuicServer::Initial;
    } else if usize::from(payload[5]) < MIN_CONNECTION_ID {
        None
    } else {
        payload.get(6..)
    };
    connection_id
        .and_then(<[u8]>::first_chunk)
        .map_or(QuicServer::None, |bytes| connection_id_server(*bytes))
}

fn connection_id_server(bytes: [u8; MIN_CONNECTION_ID]) -> QuicServer {
    let [b0, b1, b2, b3, b4, ..] = bytes;
    let version = b0 >> 6;
    let id = match version {
        1 => u32::from_be_bytes([0, b0 & 0x3f, b1, b2]) >> 6,
        2 => u32::from_be_bytes([0, b1, b2, b3]),
        3 => u32::from_be_bytes([b1, b2, b3, b4]),
        _ => 0,
    };
    // Ids are signed: those from 2³¹ on mean none.
    if id == 0 || id > i32::MAX as u32 {
        QuicServer::None
    } else {
        QuicServer::Id { version, id }
    }
}

/// Reads the server id in front of a UDP payload. `None` when the payload is not marked; the id may
/// be zero.
#[inline]
pub fn stable_routing(payload: &[u8]) -> Option<u32> {
    const MARKER: u8 = 0x52;
    match *payload.first_chunk::<8>()? {
        [MARKER, a, b, c, ..] => Some(u32::from_be_bytes([0, a, b, c])),
        _ => None,
    }
}

/// Reads the server-id option of a TCP segment, which is `segment` from its header on. The id is
/// little-endian, as the host that wrote it.
#[inline]
pub fn tcp_option(segment: &[u8]) -> Option<u32> {
    const KIND: u8 = 0xb7;
    const LEN: u8 = 6;
    const MAX_OPTIONS: usize = 15;
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    let header_len = usize::from(segment.get(12)? >> 4) * 4;
    let mut left = header_len.checked_sub(20)?;
    let mut options = segment.get(20..)?;
    if left < usize::from(LEN) {
        return None;
    }
    for _ in 0..MAX_OPTIONS {
        let taken = match *options.first()? {
            END => return None,
            NO_OPERATION => 1,
            kind => {
                let len = *options.get(1)?;
                if usize::from(len) > left || (kind == KIND && len != LEN) {
                    return None;
                }
                if kind == KIND {
                    let id = options.get(2..6)?.first_chunk()?;
                    return Some(u32::from_le_bytes(*id));
                }
                usize::from(len)
            }
        };
        left = left.checked_sub(taken)?;
        options = options.get(taken..)?;
        if left == 0 {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(connection_id: [u8; 8]) -> QuicServer {
        let mut payload = vec![0x40];
        payload.extend(connection_id);
        quic(&payload)
    }

    fn long(first: u8, connection_id_len: u8, connection_id: &[u8]) -> QuicServer {
        let mut payload = vec![first, 0, 0, 0, 1, connection_id_len];
        payload.extend(connection_id);
        quic(&payload)
    }

    #[test]
    fn vectors_of_section_7_1() {
        let id = |version, id| QuicServer::Id { version, id };
        assert_eq!(short([0x80, 0x00, 0x10, 0x01, 9, 9, 9, 9]), id(2, 0x1001));
        assert_eq!(short([0x44, 0x00, 0x40, 9, 9, 9, 9, 9]), id(1, 0x1001));
        assert_eq!(
            short([0xc0, 0x00, 0xab, 0xcd, 0xef, 9, 9, 9]),
            id(3, 0x00ab_cdef)
        );
    }

    #[test]
    fn ids_that_mean_none() {
        assert_eq!(
            short([0x00, 0, 0x10, 1, 0, 0, 0, 0]),
            QuicServer::None,
            "version 0"
        );
        assert_eq!(short([0x80, 0, 0, 0, 0, 0, 0, 0]), QuicServer::None, "zero");
        assert_eq!(
            short([0xc0, 0x80, 0, 0, 0, 0, 0, 0]),
            QuicServer::None,
            "negative"
        );
        assert_eq!(quic(&[]), QuicServer::None);
        assert_eq!(
            quic(&[0x40, 0x80, 0, 0x10, 1, 0, 0, 0]),
            QuicServer::None,
            "eight bytes"
        );
    }

    #[test]
    fn long_headers_by_packet_type_and_length() {
        let connection_id = [0x80, 0x00, 0x10, 0x01, 0, 0, 0, 0];
        let found = QuicServer::Id {
            version: 2,
            id: 0x1001,
        };
        for (first, len, bytes, expected) in [
            (0xc0, 8, 8, QuicServer::Initial),
            (0xd0, 8, 8, QuicServer::Initial),
            (0xe0, 8, 8, found),
            (0xf0, 8, 8, found),
            (0xe0, 20, 8, found),
            (0xe0, 7, 8, QuicServer::None),
            (0xe0, 8, 7, QuicServer::None),
            (0xc0, 8, 7, QuicServer::None),
        ] {
            assert_eq!(
                long(first, len, &connection_id[..bytes]),
                expected,
                "{first:#x} {len} {bytes}"
            );
        }
    }

    #[test]
    fn stable_routing_needs_marker_and_eight_bytes() {
        assert_eq!(
            stable_routing(&[0x52, 0, 0x10, 1, 0, 0, 0, 0]),
            Some(0x1001)
        );
        assert_eq!(stable_routing(&[0x52, 0, 0x10, 1, 0, 0, 0]), None);
        for first in [0x50, 0x51, 0x53, 0xd2] {
            assert_eq!(stable_routing(&[first, 0, 0x10, 1, 0, 0, 0, 0]), None);
        }
    }

    fn segment(options: &[u8]) -> Vec<u8> {
        let mut segment = vec![0; 20];
        segment[12] = (((20 + options.len()) / 4) as u8) << 4;
        segment.extend(options);
        segment
    }

    #[test]
    fn tcp_option_is_found_among_others() {
        let ours = [0xb7, 6, 0x01, 0x10, 0, 0];
        let found =
            |before: &[u8], after: &[u8]| tcp_option(&segment(&[before, &ours, after].concat()));
        assert_eq!(found(&[], &[0, 0]), Some(0x1001));
        assert_eq!(found(&[1, 1], &[]), Some(0x1001));
        assert_eq!(found(&[8, 10, 0, 0, 0, 0, 0, 0, 0, 0], &[]), Some(0x1001));
        assert_eq!(found(&[1; 14], &[]), Some(0x1001), "the fifteenth option");
        assert_eq!(found(&[1; 18], &[]), None, "the nineteenth");
        assert_eq!(found(&[0, 1], &[]), None, "after the end");
        assert_eq!(
            found(&[8, 40], &[]),
            None,
            "an option longer than what is left"
        );
        assert_eq!(found(&[8, 0], &[]), None, "an option of no length");
    }

    #[test]
    fn tcp_option_of_another_length_or_cut_off() {
        assert_eq!(tcp_option(&segment(&[0xb7, 8, 1, 0, 0, 0, 0, 0])), None);
        assert_eq!(tcp_option(&segment(&[1, 1, 1, 1])), None);
        let whole = segment(&[0xb7, 6, 1, 0, 0, 0, 0, 0]);
        for len in 0..26 {
            assert_eq!(tcp_option(&whole[..len]), None, "{len} bytes");
        }
        assert_eq!(tcp_option(&whole), Some(1));
    }
}
