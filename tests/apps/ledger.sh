# sqlite3 filling a database: transactions with a journal, then with a write-ahead log.
set -eu
rows=$1
for mode in delete wal; do
    {
        echo "pragma journal_mode = $mode; pragma synchronous = normal;"
        echo "create table if not exists book (id integer primary key, account integer, amount integer, note text);"
        echo "create index if not exists by_account on book (account);"
        for ((i = 0; i < 20; i++)); do
            echo "begin;"
            echo "with recursive n(x) as (select 1 union all select x + 1 from n where x < $rows)
                insert into book (account, amount, note) select (x * 7919 + $i) % 997, x * $i % 1001, hex(x * 48271 + $i) from n;"
            echo "update book set amount = amount + 1 where account % 10 = $i % 10;"
            echo "select $i, count(*), sum(amount) from book;"
            echo "commit;"
        done
    } >"$mode.sql"
    sqlite3 book.db <"$mode.sql"
done
sqlite3 book.db 'pragma integrity_check; select account, sum(amount), max(note) from book group by account order by 2 desc limit 5'
