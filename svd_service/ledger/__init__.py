"""The ledger: the single source of truth about every job, kept in Redis and changed only by the Lua scripts in `lua/`.

Keys, all under one namespace (`svd:` by default):

==========================  ======  ================================================================================
``job:{id}``                hash    a job; its fields are listed below
``group:{id}``              hash    jobs of one submission, and how it ended (`lua/lib/group.lua`)
``waiting:{model}``         zset    queued jobs that are not enqueued with Celery, by fair-queueing tag
``waiting:{route}``         zset    the same for one profile (`svd_service/jobs/routing.py`)
``published:{model}``       zset    queued jobs that are enqueued with Celery, by the time of enqueueing
``queued:{route}``          zset    all queued jobs, by the time of submission
``loads``                   hash    how many jobs of each Celery queue are enqueued, and how many started
``idle_since``              hash    since when a worker of each Celery queue is idle (`lua/lib/lost.lua`)
``arrived``                 hash    when the latest message to arrive at a worker was enqueued, by Celery queue
``leases``                  zset    started jobs, by the time at which their lease expires
``deadlines``               zset    queued and started jobs with a deadline that is not past, by the deadline
``ended``                   zset    ended jobs, by the time of their next retention check
``owner:{owner}``           zset    an owner's jobs, by the time of submission
``pinned:{owner}``          zset    an owner's pinned jobs, by the time of pinning
``jobs``                    zset    all jobs, by the time of submission
``queued_of``               hash    how many queued jobs each owner has
``idempotency:{owner}:{k}`` hash    the job that was made under an `Idempotency-Key`
``sendings:{owner}:{digest}`` zset  ids reserved for the jobs of one request (`reservations.py`)
``unheard:{id}``            string  how often the request that reserved this id was sent
``content:{owner}:{digest}`` hash   the latest job that made a video of this content, by kind of device
``states``                  hash    how many jobs there are in each state
``counters``                hash    counters of all events, for the exporter
``throughput``              hash    the throughput model of each kind of device with each model (`jobs/eta.py`)
``queue_sample:{model}``    hash    a sample of the far end of the queue, cached for two seconds
``usage:{owner}:{day}``     hash    an owner's usage on a day (number since 1970), by model and metric (`usage.py`)
``usage_totals``            hash    usage since the beginning by owner and metric, for the exporter
``usage_owners``            set     owners that have totals of their own
``history:{period}``        hash    ends, failures and queue age of ten minutes (number since 1970), for two days
``paused``                  hash    operators' pauses of intake and dispatch (`controls.py`)
``held_back``               hash    worker processes that an operator drained or quarantined
``audit``                   list    the latest acts of operators, as JSON
``models``                  zset    models that a worker holds or a job requests, by the last time of either
``model_descriptions``      hash    the workers' descriptions of their models, as JSON
``workers``                 zset    ready worker processes, by their last heartbeat
``workers:{queue}``         zset    the same for one Celery queue
``queues``                  zset    Celery queues with workers, by the last heartbeat
``worker_status``           hash    their status, as JSON
``worker_queue``            hash    the queue that each takes jobs from
``worker_device``           hash    the device that each has
``left``                    zset    worker processes that shut down, by when, until their queue is forgotten
``preparing``               zset    worker processes that are still loading, by their last heartbeat
``preparing_status``        hash    what they are doing, as JSON
``heard``                   string  the last activity of any worker or maintenance round
``finish_tags:{model}``     hash    virtual finish times of fair queueing, by owner and priority
``clock:{model}``           string  virtual time of the model's queue
``rate:{caller}:{minute}``  string  requests of a caller in a minute
``outbox``                  zset    jobs whose webhook waits to be delivered, by the time of the next attempt
``posted``                  zset    those enqueued with Celery or being attempted, by the time they are requeued
``pending_of:{owner}``      zset    an owner's deliveries that have not ended, by the time of the job's end
``delivery:{id}``           hash    a job's webhook delivery (`svd_service/webhooks/outbox.py`)
``webhook_secrets``         hash    signing secrets by owner (`svd_service/webhooks/signing.py`)
``keys``                    hash    API keys (`api_keys.py`)
``signers``                 hash    key and certificates of Content Credentials (`signers.py`)
``ended_of:{owner}``        zset    an owner's failed, cancelled and expired jobs, by the time of their end
``discarded``               zset    jobs with damage that maintenance has yet to log, by time
``schema``                  string  version of this layout (`check.py`)
``born``                    string  when the ledger began (`birth.py`)
``checked``                 string  set while a process has recently checked the ledger at its start
``events``                  channel "id version state owner" at every change of a job
==========================  ======  ================================================================================

Fields of a job hash. Written when the job is accepted: ``state``, ``owner``, ``created``, ``version``, ``priority``,
``route`` (model and profile), ``parameters``, ``model``, ``workload`` (size of each phase, for estimates) and ``input``
(name of the fitted image), and where there is any ``notes``, ``trace``, ``content``, ``webhook`` and ``cached_from``,
and with a deadline ``deadline``. Counters: ``attempt`` (claims ever), ``tries`` (attempts that count), ``preview`` (its
version), ``refusals`` (messages that a worker did not claim). While enqueued: ``queue``, ``slotless`` (does not count
against the queue's room). While started: ``token``, ``queue``, ``worker``, ``claimed``, and once reported ``phase``,
``step``, ``steps``, ``told`` (time of the report) and ``preview_name``. Of each attempt N: ``held:N`` (its holder),
``began:N``, ``ended:N``, ``outcome:N``, ``used:N`` (device time in milliseconds). Flags: ``cancel``, ``deleted``,
``pinned``. Times: ``enqueued`` (first), ``started``, ``ended``, ``expires``. At the end: ``last_token``, ``result`` or
``failure_code`` and ``failure_message``. Times are seconds since the epoch.

Invariants, after every script:

1. A job is in exactly the sets of its state: queued in `queued` and either in both of `waiting` or enqueued, with
   the `queue` that has its id; started in `leases`, with a `token`; ended in `ended`; and in nothing else. Before it
   has ended it is also in `deadlines` if it has a `deadline`, until that is past.
2. A write of an attempt is accepted only with the job's current token. Every claim has a new token, so at most
   one attempt can write at any time, and none after the job has ended.
3. A job's result is written once, by the move to `finished`, and that move ends the attempt, if there is one: a job
   with a cached video is finished from the start.
4. No lease expires while there is no activity at all, because Redis is down or frozen.
5. A job leaves `started` for `queued` at most as often as attempts allow; released attempts are not counted.
6. Every script is idempotent: repeated after a lost answer, it changes nothing.
7. A job that has ended and has a webhook has one delivery: pending, and in one of `outbox` and `posted`; or delivered
   or given up, and in neither. A pending one outlives its job.
8. The sums of `usage` are those of the jobs: each job is counted when it is accepted and when it ends, and the time
   of each attempt when the attempt ends, by the same script.
9. A group's members are in its record until theirs are deleted, and it is deleted with the last of them, or, if one was
   lost, after `keep` seconds without a pinned one. It has `ended` from the end of its last member on, and then, if it
   has a webhook, a delivery as in 7, under the group's id.

So Celery's message is only a hint: `reap` and `dispatch` enqueue a lost one again, and of a duplicate the second claim
is rejected.
"""

from dataclasses import dataclass

import redis

from svd_service.config import Settings
from svd_service.ledger.attempts import Attempts
from svd_service.ledger.controls import Controls
from svd_service.ledger.estimates import Estimates
from svd_service.ledger.groups import Groups
from svd_service.ledger.jobs import Jobs
from svd_service.ledger.maintenance import Maintenance
from svd_service.ledger.queue_limit import QueueLimit
from svd_service.ledger.rate_limit import RateLimit
from svd_service.ledger.scripts import Scripts
from svd_service.ledger.stats import Stats
from svd_service.ledger.usage import UsageRecords
from svd_service.ledger.workers import Workers


@dataclass(frozen=True)
class Ledger:
    """The parts of the ledger of one namespace, over one client.

    Every method of every part raises `UnavailableError` when Redis cannot be reached or does not answer in time. The
    operation may then have happened or not, and repeating it is safe.
    """

    jobs: Jobs
    groups: Groups
    attempts: Attempts
    maintenance: Maintenance
    workers: Workers
    estimates: Estimates
    stats: Stats
    queue_limit: QueueLimit
    rate_limit: RateLimit
    usage: UsageRecords
    controls: Controls


def open_ledger(client: "redis.Redis", settings: Settings, scripts: Scripts | None = None) -> Ledger:
    """The ledger of the settings' namespace over `client`; with other `scripts` than its own if given."""
    scripts = scripts or Scripts(client, settings.namespace)
    estimates = Estimates(scripts)
    workers = Workers(scripts)
    queue_limit = QueueLimit(scripts, settings, estimates)
    usage = UsageRecords(scripts)
    jobs = Jobs(scripts, settings, queue_limit)
    return Ledger(
        jobs=jobs,
        groups=Groups(scripts, settings, jobs),
        attempts=Attempts(scripts, settings),
        maintenance=Maintenance(scripts, settings),
        workers=workers,
        estimates=estimates,
        stats=Stats(scripts, workers, estimates, usage),
        queue_limit=queue_limit,
        rate_limit=RateLimit(scripts),
        usage=usage,
        controls=Controls(scripts),
    )
