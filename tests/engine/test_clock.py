import time

from foveate.engine.clock import processor_seconds
from foveate.engine.schedule import Schedule


def test_the_processor_clock_stands_still_while_nothing_is_computed():
    before = processor_seconds(), time.process_time()
    time.sleep(0.3)
    assert processor_seconds() - before[0] < 0.1
    while time.process_time() - before[1] < 0.3:
        pass
    assert processor_seconds() > before[0]


def test_a_schedule_follows_the_clock_that_it_is_given():
    seconds = [100.0]
    schedule = Schedule(None, 10.0, spent=1.0, now=lambda: seconds[0])
    seconds[0] += 4
    assert schedule.elapsed == 5
    other = Schedule(None, 10.0, now=lambda: seconds[0])
    other.restore(schedule.state())
    seconds[0] += 5
    assert other.progress == 1
