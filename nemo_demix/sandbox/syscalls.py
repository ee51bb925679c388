"""The system calls that a Python program of one process needs, and their numbers.

Each entry reads name:number on x86-64:number on aarch64, `-` where that one has no such call.
"""

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

ALLOWED = """
read:0:63 write:1:64 readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68 preadv:295:69 pwritev:296:70
preadv2:327:286 pwritev2:328:287 close:3:57 close_range:436:436 lseek:8:62 fstat:5:80 newfstatat:262:79 stat:4:-
lstat:6:- statx:332:291 statfs:137:43 fstatfs:138:44 access:21:- faccessat:269:48 faccessat2:439:439
readlink:89:- readlinkat:267:78 getcwd:79:17 chdir:80:49 fchdir:81:50 getdents:78:- getdents64:217:61
fsync:74:82 fdatasync:75:83 fadvise64:221:223 copy_file_range:326:285 sendfile:40:71 splice:275:76
tee:276:77 dup:32:23 dup2:33:- dup3:292:24 pipe:22:- pipe2:293:59 select:23:-
pselect6:270:72 poll:7:- ppoll:271:73 epoll_create:213:- epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232:-
epoll_pwait:281:22 epoll_pwait2:441:441 eventfd:284:- eventfd2:290:19 mmap:9:222 mprotect:10:226 munmap:11:215
mremap:25:216 madvise:28:233 brk:12:214 mincore:27:232 msync:26:227 rt_sigaction:13:134 rt_sigprocmask:14:135
rt_sigreturn:15:139 rt_sigpending:127:136 rt_sigsuspend:130:133 rt_sigtimedwait:128:137 sigaltstack:131:132
pause:34:- alarm:37:- getitimer:36:102 setitimer:38:103 timer_create:222:107 timer_settime:223:110
timer_gettime:224:108 timer_getoverrun:225:109 timer_delete:226:111 timerfd_create:283:85 timerfd_settime:286:86
timerfd_gettime:287:87 nanosleep:35:101 clock_nanosleep:230:115 clock_gettime:228:113 clock_getres:229:114
gettimeofday:96:169 time:201:- times:100:153 getrusage:98:165 getrlimit:97:163 setrlimit:160:164 sysinfo:99:179
uname:63:160 getcpu:309:168 getpid:39:172 getppid:110:173 gettid:186:178 getpgrp:111:-
getuid:102:174 geteuid:107:175 getgid:104:176 getegid:108:177 getresuid:118:148 getresgid:120:150
getgroups:115:158 capget:125:90 futex:202:98 sched_yield:24:124
sched_get_priority_max:146:125 sched_get_priority_min:147:126 set_robust_list:273:99
set_tid_address:218:96 rseq:334:293 membarrier:324:283 restart_syscall:219:128 arch_prctl:158:- getrandom:318:278
wait4:61:260 waitid:247:95 exit:60:93 exit_group:231:94 umask:95:166 recvfrom:45:207 sendto:44:206 recvmsg:47:212
sendmsg:46:211 shutdown:48:210 getsockopt:55:209 setsockopt:54:208 getsockname:51:204 getpeername:52:205
"""

# Allowed where the scratch folder is the only place that can be written.
WRITING = """
mkdir:83:- mkdirat:258:34 rmdir:84:- unlink:87:- unlinkat:263:35 rename:82:- renameat:264:38 renameat2:316:276
link:86:- linkat:265:37 symlink:88:- symlinkat:266:36 truncate:76:45 ftruncate:77:46 fallocate:285:47 chmod:90:-
fchmod:91:52 fchmodat:268:53 creat:85:- utime:132:- utimes:235:- utimensat:280:88 futimesat:261:- flock:73:32
"""

# Allowed where no process but the program's own can be seen.
SIGNALLING = "kill:62:129 tkill:200:130 tgkill:234:131 rt_sigqueueinfo:129:138 rt_tgsigqueueinfo:297:240"

# Allowed with some arguments only: seccomp.py says which.
CONDITIONAL = "open:2:- openat:257:56 clone:56:220 prlimit64:302:261 socketpair:53:199 fcntl:72:25 ioctl:16:29"

# Allowed of the program's own process, which is number 0 to them; of others where it sees none.
OF_PROCESSES = (
    "getpgid:121:155 getsid:124:156 sched_getaffinity:204:123 sched_getparam:143:121 sched_getscheduler:145:120"
)

# Refused with "operation not permitted". What is in no list does not exist for a program, which lets the C library
# fall back on an older call: io_uring, bpf, keyctl, clone3 and whatever kernels will bring.
REFUSED = """
fork:57:- vfork:58:- execve:59:221 execveat:322:281 socket:41:198 connect:42:203 bind:49:200 listen:50:201
accept:43:202 accept4:288:242 ptrace:101:117 process_vm_readv:310:270 process_vm_writev:311:271
pidfd_open:434:434 pidfd_send_signal:424:424 unshare:272:97 setns:308:268 mount:165:40 umount2:166:39 chroot:161:51
chown:92:- fchown:93:55 lchown:94:- fchownat:260:54 mknod:133:- mknodat:259:33 setuid:105:146 setgid:106:144
setresuid:117:147 setresgid:119:149 setgroups:116:159 setpgid:109:154 setsid:112:157 setpriority:141:140
clock_settime:227:112 settimeofday:164:170 sethostname:170:161 reboot:169:142
"""


def numbers(table: str, machine: str) -> dict[str, int]:
    """Return the calls of a table that this kind of processor has, by name."""
    column = ("x86_64", "aarch64").index(machine) + 1
    rows = [entry.split(":") for entry in table.split()]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}
