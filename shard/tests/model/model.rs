//! Random runs.

use proptest::prelude::*;

use crate::steps::{Step, steps};
use crate::world::World;

fn run(mut world: World, steps: Vec<Step>) {
    for step in steps {
        world.take(step);
        world.check_invariants();
    }
    world.settle();
    for reader in 0..world.readers.len() {
        world.close(reader);
    }
    for shard in &world.shards {
        assert_eq!((shard.delivery().subscriptions(), shard.delivery().interests()), (0, 0), "nothing open is left");
    }
}

fn block_bytes_max() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![4 << 10, 64 << 10, 256 << 10])
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn readers_of_one_shard_lose_and_repeat_nothing(
        vbuckets in prop::sample::select(vec![1, 4, 16]),
        block_bytes_max in block_bytes_max(),
        steps in steps(150),
    ) {
        run(World::new(1, vbuckets, block_bytes_max), steps);
    }

    #[test]
    fn readers_of_shards_in_lockstep_lose_and_repeat_nothing(
        shards in 2..4_u16,
        block_bytes_max in block_bytes_max(),
        steps in steps(100),
    ) {
        run(World::new(shards, 16, block_bytes_max), steps);
    }

    #[test]
    fn readers_of_shards_out_of_step_lose_and_repeat_nothing(
        shards in 2..4_u16,
        block_bytes_max in block_bytes_max(),
        steps in steps(100),
    ) {
        let mut world = World::new(shards, 16, block_bytes_max);
        world.is_lockstep = false;
        run(world, steps);
    }
}
