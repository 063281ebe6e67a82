//! Plans go through JSON and come back.

use crate::by_hand::*;
use crate::shared::{in_shared_memory, several_turns};
use ringfold::collective::{Collective, Order};
use ringfold::plan::verify::{Case, verify};
use ringfold::plan::{Algorithm, Plan};

fn there_and_back(plans: &[Plan]) {
    let text = serde_json::to_string(plans).unwrap();
    let read: Vec<Plan> = serde_json::from_str(&text).unwrap();
    assert_eq!(read, plans);
    verify(&read).unwrap();
}

#[test]
fn what_was_written_is_read_and_proved() {
    for algorithm in Algorithm::all() {
        for &collective in algorithm.collectives() {
            // Every shape of counts, every placement and order.
            for case in Case::of(algorithm, collective, 4) {
                there_and_back(&case.plans().unwrap());
            }
        }
    }
    for algorithm in in_shared_memory() {
        there_and_back(&several_turns(algorithm, Collective::AllReduce, 3, false));
    }
}

#[test]
fn the_written_form_is_what_a_reader_expects() {
    let request = request(Collective::Broadcast, 2, 3);
    let plan = &generated("direct", &request)[1];
    let expected = serde_json::json!({
        "request": {
            "collective": "broadcast", "dtype": "f32", "op": null, "root": 0, "world": 2,
            "counts": {"same": 3}, "order": "default", "in_place": false,
        },
        "rank": 1,
        "algorithm": "direct",
        "scratch": 0,
        "slot": 0,
        "steps": [{"recv": {"range": {"place": "output", "start": 0, "len": 3}, "from": 0}}],
    });
    assert_eq!(serde_json::to_value(plan).unwrap(), expected);
    // What has a default may be left out.
    let mut short = expected;
    short.as_object_mut().unwrap().remove("slot");
    let request = short["request"].as_object_mut().unwrap();
    request.remove("order");
    request.remove("in_place");
    let read: Plan = serde_json::from_value(short).unwrap();
    assert_eq!((&read, read.request.order), (plan, Order::Default));
}
