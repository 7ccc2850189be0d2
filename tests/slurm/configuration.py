"""The files that a one-machine Slurm is configured with."""

import platform
from dataclasses import dataclass
from pathlib import Path

CPUS, GPUS = 5, 2
NODE = "dsr1"
SECONDS_BEFORE_REQUEUE = 5


@dataclass(frozen=True)
class Place:
    """A private folder, and three free ports from `port` on: of the controller, the accounting and the node."""

    folder: Path
    port: int
    first_job: int

    @property
    def database_socket(self) -> Path:
        return self.folder / "run" / "mariadb.sock"

    @property
    def munge_socket(self) -> Path:
        return self.folder / "run" / "munge.sock"


def files(place: Place, memory: int) -> dict[str, str]:
    """What stands in each file; the node claims `memory` MiB."""
    return {
        "slurm.conf": _slurm(place, memory),
        "slurmdbd.conf": _accounting(place),
        "gres.conf": f"Name=gpu File={place.folder}/dev/gpu[0-{GPUS - 1}]\n",
        "my.cnf": _database(place),
        "env.sh": f"export SLURM_CONF={place.folder}/slurm.conf\n",
    }


def _slurm(place: Place, memory: int) -> str:
    """cred_expire also is the delay before a requeued job may start again, two minutes by default.

    The accounting's client finds munge by AccountingStoragePass alone.  Without NoInAddrAny every daemon listens to
    the whole world.  At a preemption Slurm sends the signal that a job asked for only if it is told to.
    """
    host = platform.node().split(".")[0]
    folder = place.folder
    return f"""\
ClusterName=dsr
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={place.munge_socket},cred_expire={SECONDS_BEFORE_REQUEUE}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={place.port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
FirstJobId={place.first_job}
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=3
MinJobAge=600
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={place.port + 1}
AccountingStoragePass={place.munge_socket}
AccountingStorageTRES=gres/gpu
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU={memory // CPUS}
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,bf_resolution=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
GresTypes=gpu
NodeName={NODE} NodeHostname={host} NodeAddr=127.0.0.1 Port={place.port + 2} CPUs={CPUS} RealMemory={memory} \
Gres=gpu:{GPUS} State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=scavenge Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=CANCEL GraceTime=20
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=100 PreemptMode=OFF
"""


def _accounting(place: Place) -> str:
    host = platform.node().split(".")[0]
    return f"""\
AuthType=auth/munge
AuthInfo=socket={place.munge_socket}
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={place.port + 1}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
PidFile={place.folder}/run/slurmdbd.pid
LogFile={place.folder}/log/slurmdbd.log
"""


def _database(place: Place) -> str:
    """No network, no password: root comes in by the socket."""
    return f"""\
[mariadbd]
user=root
datadir={place.folder}/db/data
socket={place.database_socket}
pid-file={place.folder}/run/mariadbd.pid
log-error={place.folder}/log/mariadbd.log
skip-networking
skip-name-resolve
skip-log-bin
innodb_buffer_pool_size=16M
innodb_log_file_size=8M
innodb_data_file_path=ibdata1:4M:autoextend
innodb_lock_wait_timeout=900
innodb_flush_log_at_trx_commit=0
key_buffer_size=1M
aria_pagecache_buffer_size=1M
performance_schema=OFF
"""
