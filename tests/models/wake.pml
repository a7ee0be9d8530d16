// How a sender wakes a receiver that sleeps: armed_at, the wait for its completion, immediates.
//
// Who writes what: the sender's writes travel through `to_receiver`, the receiver's through
// `to_sender`. A queue pair lands the writes of one direction in order, after any delay; a
// completion comes after the landing, after any delay. Control words land in two halves, and who
// reads in between sees a torn word.
//
// What must hold: every run ends with all publishes received (no invalid end state, no cycle), and
// never more than RECEIVES immediates wait in the receiver's queue. Each #ifdef takes one part of
// the protocol away; tests/models/run shows that the model then fails. ONE_WAKE_AT_A_TIME adds a
// rule instead: no immediate while the one before is not completed; its completion obliges to look
// again. It makes the receive queue independent of the publishes in flight.

#ifndef PUBLISHES
#define PUBLISHES 3  // publishes of the whole run
#endif
#ifndef IN_FLIGHT
#define IN_FLIGHT 2  // publishes posted and not completed, at most
#endif
#ifndef RECEIVES
#ifdef ONE_WAKE_AT_A_TIME
#define RECEIVES 3  // size of the receiver's receive queue
#else
#define RECEIVES (2 * IN_FLIGHT + 1)
#endif
#endif
#ifndef EXTRAS
#define EXTRAS 1  // credit-line writes by the receiver's engine, and wake-ups without a cause
#endif

#define PIPE 12  // writes on their way in one direction; never reached
#define NEVER 0  // armed_at before the first arm; else the cursor at which it was armed, plus 1

mtype = { publish, wake };

chan to_receiver = [PIPE] of { mtype, byte };
chan to_sender = [PIPE] of { byte };  // credit lines; only armed_at matters here

// The receiver's memory and its completion queue.
byte tail;
bool tail_torn;
byte publishes_landed;
byte wakes_landed;  // counted only with ONE_WAKE_AT_A_TIME
byte unconsumed;    // immediates that hold an entry of the receive queue
bool queue_armed;
bool event;

// The sender's memory.
byte armed_at;
bool line_torn;
byte lines_landed;

// The receiver process, shared by its application and its engine (both hold the progress token).
byte armed_value;
byte lines_posted;

byte received;

active proctype ForwardPath() {
  mtype kind;
  byte value;
  xr to_receiver;  // for the partial-order reduction: nobody else receives here
end:
  do
  :: to_receiver ? kind, value ->
    if
    :: kind == publish ->
      tail_torn = true;
      atomic {
        tail = value;
        tail_torn = false;
        publishes_landed++
      }
    :: kind == wake ->
      atomic {
        unconsumed++;
#ifdef ONE_WAKE_AT_A_TIME
        wakes_landed++;
#endif
        assert(unconsumed <= RECEIVES);
        if
        :: queue_armed -> queue_armed = false; event = true
        :: else
        fi
      }
    fi
  od
}

active proctype BackwardPath() {
  byte value;
  xr to_sender;
end:
  do
  :: to_sender ? value ->
    line_torn = true;
    atomic {
      armed_at = value;
      line_torn = false;
      lines_landed++
    }
  od
}

#ifdef SIGNAL_EACH_PUBLISH
#define LAST_SIGNALLED NEVER
#else
#define LAST_SIGNALLED last_signalled
#endif
#ifdef ONE_WAKE_AT_A_TIME
#define MAY_WAKE (wakes_completed == wakes_posted)
#else
#define MAY_WAKE true
#endif

// Reads the credit line and, if the receiver armed at a cursor that has been passed and was not
// signalled for it yet, sends the immediate. A torn line is read again until its check agrees.
inline signal_if_armed() {
#ifdef TORN_LINE_MEANS_AWAKE
  atomic {
    if
    :: line_torn -> seen = NEVER
    :: else -> seen = armed_at
    fi
  }
#else
  atomic { !line_torn -> seen = armed_at }
#endif
  if
  :: seen > LAST_SIGNALLED && posted >= seen && MAY_WAKE ->  // armed at cursor seen-1 < posted
    atomic {
      last_signalled = seen;
      to_receiver ! wake, 0;
#ifdef ONE_WAKE_AT_A_TIME
      wakes_posted++
#endif
    }
  :: else
  fi
}

active proctype Sender() {
  byte posted, completed, seen, last_signalled;
  byte wakes_posted, wakes_completed;
  xs to_receiver;
  do
  :: posted < PUBLISHES && posted - completed < IN_FLIGHT ->
    atomic { posted++; to_receiver ! publish, posted }
#ifndef NO_REREAD_AFTER_POST
    signal_if_armed()
#endif
  :: completed < publishes_landed ->
    completed++;
#ifndef NO_REREAD_AFTER_COMPLETION
    if
    :: signal_if_armed()
    :: completed < posted  // only the last completion obliges
    fi
#endif
#ifdef ONE_WAKE_AT_A_TIME
  :: wakes_completed < wakes_landed -> wakes_completed++; signal_if_armed()
#endif
  :: completed == PUBLISHES && MAY_WAKE -> break
  od
}

inline arm_queue() {
  // What arrived before does not count as an event, as with a real completion queue.
  queue_armed = true
}

// Reads the tail; a torn one is read again until its check agrees.
inline poll_ring() {
#ifdef TORN_TAIL_MEANS_EMPTY
  atomic {
    if
    :: tail_torn -> seen = received
    :: else -> seen = tail
    fi
  }
#else
  atomic { !tail_torn -> seen = tail }
#endif
  assert(seen >= received)
}

active proctype Receiver() {
  byte seen, mine, spurious;
  do
  :: received == PUBLISHES -> break
  :: else ->
    poll_ring();
    if
    :: seen > received -> received = seen
    :: else ->
      unconsumed = 0;  // polls its completion queue and posts the receives again
#ifndef ARM_QUEUE_LAST
      arm_queue();
#endif
      atomic {
        armed_value = received + 1;
        to_sender ! armed_value;
        lines_posted++;
        mine = lines_posted
      }
#ifndef NO_COMPLETION_WAIT
      lines_landed >= mine;
#endif
#ifndef NO_RECHECK
      poll_ring();
#endif
      if
      :: seen > received  // the next round takes it; a wake-up that still comes is a spurious one
      :: else ->
#ifdef ARM_QUEUE_LAST
        arm_queue();
#endif
        // Sleeps. Bounded, so that spurious wake-ups cannot hide a lost one.
        if
        :: event -> event = false
        :: spurious < EXTRAS -> spurious++
        fi
      fi
    fi
  od
}

// The receiver's engine returns credit whenever it likes: the same line once more.
active proctype ReceiverEngine() {
  byte rewrites;
  do
  :: rewrites < EXTRAS ->
    atomic { rewrites++; to_sender ! armed_value; lines_posted++ }
  :: break
  od
}
