//! Messages between two ranks: their order, their ends, and collectives among them.

use crate::calls::group::WAYS;
use crate::calls::messages;

#[test]
fn messages_of_every_type_and_of_nothing_arrive() {
    for way in WAYS {
        (1..=4).for_each(|world| messages::of_every_type(way, world));
    }
}

#[test]
fn many_messages_keep_their_order_in_each_direction() {
    WAYS.iter().for_each(messages::in_order);
}

#[test]
fn messages_and_collectives_do_not_disturb_each_other() {
    for way in WAYS {
        [2, 3, 5].into_iter().for_each(|world| messages::among_collectives(way, world));
    }
}

#[test]
fn a_message_of_another_length_or_type_is_a_mismatch() {
    WAYS.iter().for_each(messages::unlike);
}
