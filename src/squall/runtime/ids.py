"""The user and group ids of this machine that belong to containers, and why it is these.

They lie outside of everything that is handed out by itself: logins and subordinate ids (from 100,000 to 600,100,000 by default, shadow's login.defs(5)),
systemd's (61,184 to 65,519 for services, 524,288 to 1,879,048,191 for its containers; systemd's UIDS-GIDS), and ids made from a directory's names (200,000 to
2,000,200,000 in SSSD, sssd.conf(5), "ldap_idmap_range_max"). The last systemd uses are from 2,147,352,576 on. `subordinate` keeps others off.
"""

from dataclasses import dataclass

#: Ids that a user namespace has.
COUNT = 65_536


@dataclass(frozen=True, slots=True)
class IdRange:
    """User and group ids of this machine that containers' ids are mapped to: inside 0 is outside `first`."""

    first: int
    count: int = COUNT

    @property
    def end(self) -> int:
        """The first id that is not in it."""
        return self.first + self.count

    def overlaps(self, first: int, count: int) -> bool:
        return first < self.end and self.first < first + count

    def __contains__(self, number: int) -> bool:
        return self.first <= number < self.end


#: All that Squall may use on a machine, whatever the number of its servers.
ALL = IdRange(0x7800_0000, 0x7FFE_0000 - 0x7800_0000)
#: Files of layers and volumes belong to these on disk.
DEFAULT_IDS = IdRange(ALL.first)
#: What they belonged to until November 2026. Debian's first `useradd` gives these as subordinate ids to a local user.
EARLIER_IDS = IdRange(100_000)
