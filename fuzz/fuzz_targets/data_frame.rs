//! Whatever a peer, or a stranger, sends over a data link: hello, frames, causes and fingerprints.
//!
//! A header carries a check that random bytes do not meet, so the input is a recipe: it says which frames to make, of
//! what kind, with what length and padding, where to put raw bytes between them, and how the stream is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringfold::collective::Fingerprint;
use ringfold::transport::tcp::frame::{
    ALIGNMENT, CONTROL_LIMIT, DATA_LIMIT, Decoder, HEADER, Key, Kind, Step, decode_cause, encode_cause,
};
use ringfold::transport::tcp::hello::{HELLO, Hello};

fn stream(mut recipe: &[u8]) -> Vec<u8> {
    let mut key = Key::new(1);
    let mut bytes = Vec::new();
    while let [what, length, padding, rest @ ..] = recipe {
        let take = usize::from(*length).min(rest.len());
        let (payload, rest) = rest.split_at(take);
        recipe = rest;
        let kind = match what % 5 {
            0 => Kind::Data,
            1 => Kind::Cause,
            2 => Kind::Goodbye,
            3 => Kind::Refused,
            _ => {
                bytes.extend(payload);
                continue;
            }
        };
        // The claimed length may be another than the payload's.
        let claimed = if what & 0x80 == 0 { payload.len() } else { usize::from(*length) << (what & 15) };
        bytes.extend(key.header(kind, usize::from(*padding) % ALIGNMENT, claimed));
        bytes.extend(payload);
        key.advance();
    }
    bytes
}

fuzz_target!(|recipe: &[u8]| {
    if let Some(bytes) = recipe.first_chunk::<HELLO>()
        && let Ok(Some(hello)) = Hello::decode(bytes)
    {
        assert_eq!(Hello::decode(&hello.encode()), Ok(Some(hello)));
    }
    if let Some(bytes) = recipe.first_chunk::<{ Fingerprint::SIZE }>()
        && let Some(fingerprint) = Fingerprint::decode(bytes)
    {
        assert_eq!(Fingerprint::decode(&fingerprint.encode()), Some(fingerprint));
        assert_eq!(fingerprint.difference(&fingerprint), None);
    }
    if let Some(cause) = decode_cause(recipe) {
        let mut bytes = [0; CONTROL_LIMIT];
        let length = encode_cause(&cause, &mut bytes);
        assert!(decode_cause(&bytes[..length]).is_some());
    }
    let piece = recipe.first().map_or(1, |byte| usize::from(*byte) + 1);
    let bytes = stream(recipe);
    let mut decoder = Decoder::new(Key::new(1));
    let (mut start, mut end) = (0, 0);
    while end < bytes.len() {
        end = (end + piece).min(bytes.len());
        loop {
            let held = end - start;
            let remaining = decoder.remaining();
            assert!(remaining <= DATA_LIMIT);
            if remaining > 0 {
                let taken = held.min(remaining);
                decoder.take(taken);
                start += taken;
                if taken == 0 {
                    break;
                }
                continue;
            }
            match decoder.step(&bytes[start..end]) {
                Ok((_, Step::Need(more))) => {
                    assert!(more > held && more <= HEADER + ALIGNMENT + CONTROL_LIMIT);
                    break;
                }
                Ok((used, _)) => {
                    assert!(used <= held && used > 0);
                    start += used;
                }
                Err(_) => return,
            }
        }
    }
});
