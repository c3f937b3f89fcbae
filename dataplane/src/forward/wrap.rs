//! What most packets get in front of them: headers of the one encapsulation that is set, towards a real
//! of their own IP version. The loop over a burst is compiled for each, so that it knows sizes and places.

use super::family::Family;
use crate::packet::{
    ETHERNET_LEN, IPV4_LEN, IPV6_LEN, UDP_LEN,
    emit::Inner,
    head::{HEAD_V4_LEN, HEAD_V6_LEN, Headed},
    outer::{Form, OuterHeader},
};

/// An encapsulation of packets of one IP version, in the same version.
pub(super) trait Wrap<A: Family> {
    /// The headers.
    const FORM: Form;
    /// Room for them, and a packet's head behind it.
    type Roomy;

    /// The buffer's start, if the room there is just that.
    fn roomy(buffer: &mut [u8], room: usize) -> Option<&mut Self::Roomy>;
    /// The head behind the room.
    fn head_in(roomy: &Self::Roomy) -> &A::Head;
    /// Writes headers of this form into the room. `None`, and nothing is written, if the checksum would
    /// not be that of a sound packet.
    fn write(header: &OuterHeader, roomy: &mut Self::Roomy, inner: &Inner<A>) -> Option<()>;
}

/// IP in IP.
pub(super) enum Ipip {}

/// Generic UDP encapsulation.
pub(super) enum Gue {}

macro_rules! wrap {
    ($wrap:ty, $address:ty, $form:ident, $room:expr, $head:expr, $write:expr) => {
        const _: () = assert!(
            $room + ETHERNET_LEN == Form::$form.size(),
            "the headers take the room"
        );

        impl Wrap<$address> for $wrap {
            const FORM: Form = Form::$form;
            type Roomy = [u8; $room + $head];

            #[inline]
            fn roomy(buffer: &mut [u8], room: usize) -> Option<&mut Self::Roomy> {
                if room == $room {
                    buffer.first_chunk_mut()
                } else {
                    None
                }
            }

            #[inline]
            fn head_in(roomy: &Self::Roomy) -> &<$address as Headed>::Head {
                // Room and head are all there is, so it is long enough.
                const NONE: [u8; $head] = [0; $head];
                roomy.last_chunk().unwrap_or(&NONE)
            }

            #[inline]
            fn write(
                header: &OuterHeader,
                roomy: &mut Self::Roomy,
                inner: &Inner<$address>,
            ) -> Option<()> {
                let head = <Self as Wrap<$address>>::head_in(roomy);
                let (own_mac, part) = (<$address>::own_mac(head), <$address>::gue_part(head));
                $write(header, roomy.first_chunk_mut()?, own_mac, inner, part)
            }
        }
    };
}

wrap!(
    Ipip,
    [u8; 4],
    IpipV4,
    IPV4_LEN,
    HEAD_V4_LEN,
    |header: &OuterHeader, out, own_mac, inner, _| {
        header.write_ipip_v4(out, own_mac, inner);
        Some(())
    }
);
wrap!(
    Ipip,
    [u8; 16],
    IpipV6,
    IPV6_LEN,
    HEAD_V6_LEN,
    |header: &OuterHeader, out, own_mac, inner, _| {
        header.write_ipip_v6(out, own_mac, inner);
        Some(())
    }
);
wrap!(
    Gue,
    [u8; 4],
    GueV4,
    IPV4_LEN + UDP_LEN,
    HEAD_V4_LEN,
    |header: &OuterHeader, out, own_mac, inner, part: Option<u32>| {
        header.write_gue_v4(out, own_mac, inner, part?);
        Some(())
    }
);
wrap!(
    Gue,
    [u8; 16],
    GueV6,
    IPV6_LEN + UDP_LEN,
    HEAD_V6_LEN,
    |header: &OuterHeader, out, own_mac, inner, part: Option<u32>| {
        header.write_gue_v6(out, own_mac, inner, part?);
        Some(())
    }
);
