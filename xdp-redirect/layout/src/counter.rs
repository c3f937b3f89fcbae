//! Counters of the eBPF programs: one table each, from which the programs take the index and
//! userspace the name.

/// Makes an enumeration of counters: index, name and meaning from one line each.
macro_rules! counters {
    ($(#[$attribute:meta])* $enumeration:ident { $($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+ }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $enumeration {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl $enumeration {
            /// Every counter, in the order of its index.
            pub const ALL: &[Self] = &[$(Self::$variant),+];
            /// Number of counters.
            pub const COUNT: usize = Self::ALL.len();

            /// Place of the counter in its map.
            #[inline(always)]
            #[must_use]
            pub const fn index(self) -> u32 {
                self as u32
            }

            /// Name, in lower case with underscores.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What is counted, for humans.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

counters! {
    /// Packets that the `redirect` program saw: each packet counts once, under its outcome.
    RedirectCounter {
        /// Passed: neither IPv4 nor IPv6, or too short for its header.
        PassedNotIp = "passed_not_ip",
        /// Passed: the destination is no VIP's address.
        PassedNotVip = "passed_not_vip",
        /// Passed: a VIP's address, but no VIP has this port and protocol.
        PassedOtherPort = "passed_other_port",
        /// Passed: a VIP's address, but a protocol or ICMP type that is not balanced.
        PassedOtherProtocol = "passed_other_protocol",
        /// Passed: an ICMP error to a VIP's address about a packet that no VIP sent.
        PassedOtherError = "passed_other_error",
        /// Passed: for a VIP or a decap destination, but no socket is bound to the queue.
        PassedNoSocket = "passed_no_socket",
        /// Passed: for a VIP or a decap destination, but the driver leaves too little head room.
        PassedNoHeadRoom = "passed_no_head_room",
        /// Passed: for a VIP or a decap destination, but the socket was gone at the moment of the redirect.
        PassedNoRedirect = "passed_no_redirect",
        /// Redirected: TCP or UDP of a VIP.
        RedirectedService = "redirected_service",
        /// Redirected: echo request to a VIP's address.
        RedirectedEcho = "redirected_echo",
        /// Redirected: ICMP error about a packet of a VIP.
        RedirectedError = "redirected_error",
        /// Redirected: fragment to a VIP's address.
        RedirectedFragment = "redirected_fragment",
        /// Redirected: IPv4 header length other than 20 bytes, to a VIP's address.
        RedirectedOptions = "redirected_options",
        /// Redirected: TCP, UDP, ICMP or quoted header cut short, to a VIP's address.
        RedirectedTruncated = "redirected_truncated",
        /// Redirected: tunnel to a decap destination.
        RedirectedTunnel = "redirected_tunnel",
    }
}

impl RedirectCounter {
    /// Whether the packets of this counter went to a socket.
    #[must_use]
    pub const fn is_redirect(self) -> bool {
        self.index() >= Self::RedirectedService.index()
    }
}

counters! {
    /// Packets and bytes that the `decap` program saw: each packet counts once, under its outcome.
    DecapCounter {
        /// Stripped: IPv4 in IPv4.
        Ipip4In4 = "ipip_v4_in_v4",
        /// Stripped: IPv4 in IPv6.
        Ipip4In6 = "ipip_v4_in_v6",
        /// Stripped: IPv6 in IPv6.
        Ipip6In6 = "ipip_v6_in_v6",
        /// Stripped: GUE, IPv4 in IPv4.
        Gue4In4 = "gue_v4_in_v4",
        /// Stripped: GUE, IPv6 in IPv4.
        Gue6In4 = "gue_v6_in_v4",
        /// Stripped: GUE, IPv4 in IPv6.
        Gue4In6 = "gue_v4_in_v6",
        /// Stripped: GUE, IPv6 in IPv6.
        Gue6In6 = "gue_v6_in_v6",
        /// Passed: not a tunnel packet.
        NotTunnel = "passed_not_tunnel",
        /// Passed: a tunnel packet whose outer destination is not ours.
        NotOurs = "passed_not_ours",
        /// Passed: a tunnel packet with a fragmented outer header.
        OuterFragment = "passed_outer_fragment",
        /// Passed: a tunnel packet with options in its outer IPv4 header.
        OuterOptions = "passed_outer_options",
        /// Passed: a tunnel packet without a whole inner header.
        InnerTruncated = "passed_inner_truncated",
        /// Passed: a tunnel packet whose inner IP version is not what the tunnel carries.
        InnerVersion = "passed_inner_version",
        /// Passed: the driver refused to move the start of the packet.
        AdjustFailed = "passed_adjust_failed",
    }
}

impl DecapCounter {
    /// Whether the packets of this counter lost their outer header.
    #[must_use]
    pub const fn is_stripped(self) -> bool {
        self.index() <= Self::Gue6In6.index()
    }
}

counters! {
    /// Packets and bytes that the `balancer` program saw: each packet counts once, under its outcome.
    /// What is dropped has the name of the reason that workers give.
    BalancerOutcome {
        /// Transmitted: encapsulated, to a real.
        Transmitted = "transmitted",
        /// Transmitted: the answer to an echo request to a VIP.
        EchoReplied = "echo_replied",
        /// Passed: neither IPv4 nor IPv6, or too short for its header.
        PassedNotIp = "passed_not_ip",
        /// Passed: TCP or UDP, or an ICMP error about them, that is no VIP's.
        PassedNotVip = "passed_not_vip",
        /// Passed: another protocol, extension headers, or another ICMP type.
        PassedOtherProtocol = "passed_other_protocol",
        /// Dropped: the IPv4 header length is not 20 bytes.
        DroppedIpv4Options = "ipv4-options",
        /// Dropped: the packet is an IP fragment; ports are unknown.
        DroppedFragment = "fragment",
        /// Dropped: the frame ends before the TCP, UDP or ICMP header does.
        DroppedL4Truncated = "l4-truncated",
        /// Dropped: the packet quoted in an ICMP error is too short or has IP options.
        DroppedQuoteTruncated = "quote-truncated",
        /// Dropped: the frame is longer than the configured maximum.
        DroppedFrameTooLong = "frame-too-long",
        /// Dropped: the VIP has no real with a weight above zero.
        DroppedNoReal = "no-real",
        /// Dropped: an IPv6 packet selected an IPv4 real.
        DroppedFamilyMismatch = "family-mismatch",
        /// Dropped: the next hop's Ethernet address is not known yet.
        DroppedNoNextHop = "no-next-hop",
        /// Dropped: the driver has no room in front of the frame for the outer header.
        DroppedNoRoom = "no-room",
    }
}

impl BalancerOutcome {
    /// Whether the packets of this outcome left by the interface they came from.
    #[must_use]
    pub const fn is_transmit(self) -> bool {
        self.index() <= Self::EchoReplied.index()
    }

    /// Whether the packets of this outcome went to the kernel.
    #[must_use]
    pub const fn is_pass(self) -> bool {
        !self.is_transmit() && self.index() <= Self::PassedOtherProtocol.index()
    }
}

counters! {
    /// What happened in the `balancer` program besides outcomes. The names are those of workers'
    /// counters that mean the same.
    BalancerEvent {
        /// Packets to VIPs that are not too long.
        VipPackets = "vip-packets",
        /// Packets whose real the connection table did not name: the ring did.
        RingSelections = "ring-selections",
        /// TCP with SYN, of which the table is not asked.
        TcpSynMisses = "tcp-syn-misses",
        /// TCP without SYN whose real the table did not name: flows that began elsewhere or were forgotten.
        TcpNonSynMisses = "tcp-non-syn-misses",
        /// Packets dropped because the ring named a real that there is not.
        RingUnknownReals = "ring-unknown-reals",
        /// Packets dropped because the ring was empty: no real has a weight above zero.
        RingEmptySlots = "ring-empty-slots",
        /// Flows that entered the table.
        FlowInserts = "flow-inserts",
        /// Packets whose flow did not enter the table because of the cap.
        FloodSuppressed = "flood-suppressed",
        /// New flows in the present window of one second, by which the cap on inserts goes.
        ConnectionEvents = "connection-events",
        /// When that window started, by the system's monotonic clock.
        ConnectionWindowNs = "connection-window-ns",
        /// ICMP errors that followed the flow they are about.
        IcmpErrors = "icmp-errors",
        /// Of these, IPv4's "fragmentation needed" (type 3 code 4).
        PtbV4 = "ptb-v4",
        /// Of these, with an MTU below 1280.
        PtbV4Small = "ptb-v4-small",
        /// ICMP errors that are IPv6's "packet too big" (type 2).
        PtbV6 = "ptb-v6",
        /// Of these, with an MTU below 1280.
        PtbV6Small = "ptb-v6-small",
        /// Packets whose real is known, but that cannot get an outer IPv4 header.
        EncapFailuresV4 = "encap-failures-v4",
        /// Likewise, an outer IPv6 header.
        EncapFailuresV6 = "encap-failures-v6",
    }
}

/// Words of the `balancer` program's counters: packets and bytes of each outcome, then the events.
pub const BALANCER_WORDS: usize = 2 * BalancerOutcome::COUNT + BalancerEvent::COUNT;

counters! {
    /// Packets that the `healthcheck` program saw: each packet counts once, under its outcome.
    HealthCheckCounter {
        /// Skipped: no mark, or one that names no real; the packet left as it came.
        Skipped = "skipped",
        /// Processed: sent encapsulated to the real of its mark.
        Processed = "processed",
        /// Dropped: longer than the configured maximum, or than an outer length field can say.
        TooBig = "too_big",
        /// Dropped: an IPv6 packet whose mark names an IPv4 real.
        DroppedFamilyMismatch = "dropped_family_mismatch",
        /// Dropped: the next hop's Ethernet address is not known.
        DroppedNoNextHop = "dropped_no_next_hop",
        /// Dropped: the kernel refused to make room for the outer header.
        DroppedNoRoom = "dropped_no_room",
    }
}

counters! {
    /// Frames that reached the benchmark's far end: each counts once, by what it looks like.
    CountCounter {
        /// An IPIP tunnel: a balancer sent it.
        Encapsulated = "encapsulated",
        /// A TCP packet as the generator sends it, with its Ethernet addresses swapped.
        Returned = "returned",
        /// Sent by workers that decide nothing.
        Reflected = "reflected",
        /// Anything else.
        Other = "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_is_the_place_in_the_table() {
        for (index, counter) in RedirectCounter::ALL.iter().enumerate() {
            assert_eq!(counter.index() as usize, index);
        }
        for (index, counter) in DecapCounter::ALL.iter().enumerate() {
            assert_eq!(counter.index() as usize, index);
        }
        for (index, counter) in HealthCheckCounter::ALL.iter().enumerate() {
            assert_eq!(counter.index() as usize, index);
        }
        for (index, counter) in BalancerOutcome::ALL.iter().enumerate() {
            assert_eq!(counter.index() as usize, index);
        }
        for (index, counter) in BalancerEvent::ALL.iter().enumerate() {
            assert_eq!(counter.index() as usize, index);
        }
    }

    #[test]
    fn names_say_whether_the_packet_was_taken() {
        for counter in RedirectCounter::ALL {
            assert_eq!(
                counter.name().starts_with("redirected_"),
                counter.is_redirect()
            );
            assert_eq!(
                counter.help().starts_with("Redirected: "),
                counter.is_redirect()
            );
        }
        for counter in DecapCounter::ALL {
            assert_eq!(
                !counter.name().starts_with("passed_"),
                counter.is_stripped()
            );
            assert_eq!(
                counter.help().starts_with("Stripped: "),
                counter.is_stripped()
            );
        }
        for outcome in BalancerOutcome::ALL {
            let verb = if outcome.is_transmit() {
                "Transmitted: "
            } else if outcome.is_pass() {
                "Passed: "
            } else {
                "Dropped: "
            };
            assert!(outcome.help().starts_with(verb), "{outcome:?}");
            assert_eq!(outcome.name().starts_with("passed_"), outcome.is_pass());
        }
        for counter in HealthCheckCounter::ALL {
            let is_drop =
                counter.name().starts_with("dropped_") || *counter == HealthCheckCounter::TooBig;
            assert_eq!(counter.help().starts_with("Dropped: "), is_drop);
        }
    }

    #[test]
    fn names_differ() {
        let mut names: std::collections::HashSet<_> = RedirectCounter::ALL
            .iter()
            .map(|counter| counter.name())
            .collect();
        names.extend(DecapCounter::ALL.iter().map(|counter| counter.name()));
        names.extend(HealthCheckCounter::ALL.iter().map(|counter| counter.name()));
        assert_eq!(
            names.len(),
            RedirectCounter::COUNT + DecapCounter::COUNT + HealthCheckCounter::COUNT
        );
    }
}
