//! Whatever a stranger sends over a control link: the decoders must neither panic nor take more than is there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringfold::transport::control::Hello;
use ringfold::transport::control::frame::{FRAME_LIMIT, decode, encode, frame_length};

fuzz_target!(|bytes: &[u8]| {
    if let Some(hello) = bytes.first_chunk().and_then(Hello::decode) {
        // What is replaced in a host's name may be longer than what it replaces, and is then cut.
        let again = Hello::decode(&hello.encode()).expect("a hello encodes to a hello");
        assert_eq!((again.rank, again.world, again.world_id), (hello.rank, hello.world, hello.world_id));
    }
    let mut rest = bytes;
    while let Ok(Some((frame, length))) = decode(rest) {
        assert_eq!(frame_length(rest), Ok(Some(length)));
        assert!(length <= rest.len() && length <= FRAME_LIMIT);
        let encoded = encode(&frame);
        let (again, taken) = decode(&encoded).expect("a frame encodes to a frame").expect("a whole one");
        assert_eq!(taken, encoded.len());
        assert_eq!(encode(&again), encoded, "reading and writing settle");
        rest = &rest[length..];
    }
});
