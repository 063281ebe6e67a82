//! Plans that somebody wrote: reading, lowering and proving them neither panics nor takes for ever.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringfold::plan::Plan;
use ringfold::plan::verify::verify;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(plans) = serde_json::from_slice::<Vec<Plan>>(bytes)
        && plans.len() <= 8
    {
        let _ = verify(&plans);
    }
});
