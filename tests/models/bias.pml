// The biased lock of an inlet (channel/biased_lock.hpp): who has the bias comes in without a locked
// instruction, until somebody takes it away.
//
// Who writes what: each thread the `inside` of its own seat; who has the lock `owner`. Every thread
// locks ROUNDS times, or gives up; the bias goes to a thread that was let in, or not: patience is
// not modelled. The barrier that the revoker makes is the model's own: nothing is delayed here.
//
// What must hold: two threads are never inside at a time. ONE_SEAT shows what happens where all
// threads say in the same place that they are inside.

#ifndef THREADS
#define THREADS 3
#endif
#ifndef ROUNDS
#define ROUNDS 3
#endif

#define NOBODY 255

#ifdef ONE_SEAT
#define SEAT 0
#else
#define SEAT _pid
#endif

byte owner = NOBODY;
bool locked;
bool inside[THREADS];
byte holders;

inline hold() {
  atomic { holders++; assert(holders == 1) }
  atomic { holders-- }
}

active [THREADS] proctype Thread() {
  byte rounds, i;
  bool was_locked, taken;
  do
  :: rounds == ROUNDS -> break
  :: rounds < ROUNDS ->
    rounds++;
    taken = false;
    if
    :: owner == _pid ->
      inside[SEAT] = true;
      if
      :: owner == _pid -> taken = true; hold(); inside[SEAT] = false
      :: else -> inside[SEAT] = false
      fi
    :: else
    fi;
    if
    :: taken
    :: !taken ->
      atomic { was_locked = locked; locked = true }
      if
      :: was_locked
      :: else ->
        owner = NOBODY;
        i = 0;
        do
        :: i < THREADS && !inside[i] -> i++
        :: i < THREADS && inside[i] -> break  // comes again
        :: i == THREADS ->
          hold();
          if
          :: owner = _pid
          :: true
          fi;
          break
        od;
        i = 0;
        locked = false
      fi
    fi
  od
}
