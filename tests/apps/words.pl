# Hashes, sorting, regular expressions, formats.
use strict;
use warnings;
$| = 1;
my $steps = shift;
my ( $x, %seen ) = (42);
for my $step ( 1 .. $steps ) {
    for ( 1 .. 3000 ) {
        $x = ( $x * 1103515245 + 12345 ) % 2147483648;
        $seen{ sprintf "%s%d", chr( 97 + $x % 26 ), $x % 40 }++;
    }
    my @top = ( sort { $seen{$b} <=> $seen{$a} || $a cmp $b } keys %seen )[ 0 .. 4 ];
    my $text = join " ", map { "$_=$seen{$_}" } @top;
    ( my $vowels = $text ) =~ tr/aeiou//cd;
    $text =~ s/(\d+)=/<$1>/g;
    printf "%5d %-60s %s\n", $step, $text, $vowels;
}
